// A page of a table: headings sort, rows are selected by click or keyboard.

function render({ model, el }) {
  const table = element("table", { className: "workbench-table", role: "grid" });
  const label = element("span", { className: "label", role: "status" });
  const detail = element("div", { className: "workbench-detail", dir: "auto" });
  const turn = (by) => () => model.send({ kind: "page", page: model.get("_content").page + by });
  const back = element("button", { textContent: "‹ Previous", onclick: turn(-1) });
  const next = element("button", { textContent: "Next ›", onclick: turn(1) });
  el.append(element("div", { className: "scroll" }, table),
    element("div", { className: "pager" }, back, next, label), detail);

  // Without a kernel, the rows that are there are sorted and selected here, the selected first.
  let order, picked;
  const chosen = () => picked
    ?? model.get("_content").rows.filter((row) => row.selected).map((row) => row.key);
  function send(message) {
    const { kind, column, key, add } = message, { count, many } = model.get("_content");
    if (!isAlone(model, el)) return model.send(message);
    if (kind === "sort") order = [column, order?.[0] === column && !order[1]];
    else if (many) {
      const now = chosen(), others = now.filter((row) => row !== key), kept = add ? others : [];
      const ends = now.includes(key) && (add || !others.length);
      picked = ends ? kept : [...kept, key];
      tell(el, { rows: picked, count });
    }
    draw();
  }
  const stopHeeding = heed(model, el, ({ rows, count }) => {
    if (count === model.get("_content").count) picked = rows;
    draw();
  });
  function alone(content) {
    const keys = chosen(), set = new Set(keys), [name, falls] = order ?? content.order;
    const column = content.columns.findIndex((each) => each.name === name);
    const value = ({ cells: { [column]: text } }) =>
      content.columns[column].numeric ? Number(text.replaceAll(",", "")) : text;
    const rows = content.rows.map((row) => ({ ...row, selected: set.has(row.key) }));
    if (order) rows.sort((a, b) => !a.cells[column] - !b.cells[column]
      || (falls ? -1 : 1) * ((value(a) > value(b)) - (value(a) < value(b))));
    rows.sort((a, b) => b.selected - a.selected);
    detail.textContent = content.rows.find((row) => row.key === keys[0])?.full ?? "";
    return { ...content, rows, order: [name, falls], chosen: picked?.length ?? content.chosen };
  }

  function heading({ name, numeric, title }, [sorted, descending]) {
    const onclick = () => send({ kind: "sort", column: name });
    const button = element("button", { title, onclick, tabIndex: -1 });
    button.dataset.column = name;
    const ariaSort = name !== sorted ? "none" : descending ? "descending" : "ascending";
    button.append(name, { none: "", ascending: " ▲", descending: " ▼" }[ariaSort]);
    return element("th", { scope: "col", className: numeric ? "number" : "", ariaSort }, button);
  }

  function line({ key, selected, faint, cells }, columns) {
    const onclick = ({ ctrlKey, metaKey, shiftKey }) =>
      send({ kind: "pick", key, add: ctrlKey || metaKey, range: shiftKey });
    const className = faint ? "faint" : "";
    const node = element("tr", { tabIndex: -1, ariaSelected: selected, onclick, className });
    cells.forEach((text, i) => {
      const { name, numeric } = columns[i], isLong = name === "text" || name === "query";
      const className = numeric ? "number" : isLong ? "long" : "";
      node.append(element("td", { textContent: text, title: text, dir: "auto", className }));
    });
    node.dataset.key = key;
    return node;
  }

  // One tab stop a table: arrow keys move between headings and rows.
  table.onfocusin = ({ target }) => {
    for (const node of table.querySelectorAll("[tabindex='0']")) node.tabIndex = -1;
    target.tabIndex = 0;
  };
  table.onkeydown = (event) => {
    const node = event.target.closest("th, tbody tr"), row = node.closest("tr").rowIndex;
    const to = {
      ArrowDown: table.rows[row + 1], ArrowUp: table.rows[row - 1],
      ArrowLeft: node.previousElementSibling, ArrowRight: node.nextElementSibling,
    }[event.key];
    if (node.dataset.key && (event.key === "Enter" || event.key === " ")) node.onclick(event);
    else if (to) (to.querySelector("button") ?? to).focus();
    else return;
    event.preventDefault();
    event.stopPropagation();
  };

  function draw() {
    const content = model.get("_content");
    const { columns = [], rows = [], page = 0, pages = 1, ...more } =
      isAlone(model, el) ? alone(content) : content;
    const focused = table.contains(document.activeElement) ? document.activeElement.dataset : {};
    const focusedAt = focused.key ?? focused.column;
    Object.assign(table, { ariaLabel: more.noun, ariaMultiSelectable: more.many });
    table.replaceChildren(
      element("thead", {}, element("tr", {}, ...columns.map((each) => heading(each, more.order)))),
      element("tbody", {}, ...rows.map((row) => line(row, columns))));
    back.disabled = page === 0;
    next.disabled = page >= pages - 1;
    const selected = more.chosen ? `, ${more.chosen.toLocaleString("en")} selected` : "";
    const place = pages > 1 ? `page ${page + 1} of ${pages}: ` : "";
    label.textContent = `${place}${more.label}${selected}`;
    const stops = [...table.querySelectorAll("tr[data-key], button[data-column]")];
    const again = stops.find(({ dataset }) => (dataset.key ?? dataset.column) === focusedAt);
    again?.focus();
    const first = table.querySelector("tr[aria-selected=true]") ?? table.tBodies[0].rows[0];
    (again ?? first ?? stops[0])?.setAttribute("tabindex", 0);
  }
  const stop = redraw(model, ["_content"], draw);
  return () => { stop(); stopHeeding(); };
}

export default { initialize, render };
