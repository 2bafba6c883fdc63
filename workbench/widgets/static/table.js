// A page of a table: headings sort, rows are selected by click or keyboard.

function render({ model, el }) {
  const table = element("table",
    { className: "workbench-table", role: "grid", ariaMultiSelectable: "true" });
  const label = element("span", { className: "label", role: "status" });
  const turn = (by) => () => model.send({ kind: "page", page: model.get("_content").page + by });
  const back = element("button", { textContent: "‹ Previous", onclick: turn(-1) });
  const next = element("button", { textContent: "Next ›", onclick: turn(1) });
  el.append(element("div", { className: "scroll" }, table),
    element("div", { className: "pager" }, back, next, label));

  function heading({ name, numeric, title }, [sorted, descending]) {
    const onclick = () => model.send({ kind: "sort", column: name });
    const button = element("button", { title, onclick });
    button.dataset.column = name;
    const ariaSort = name !== sorted ? "none" : descending ? "descending" : "ascending";
    button.append(name, { none: "", ascending: " ▲", descending: " ▼" }[ariaSort]);
    return element("th", { scope: "col", className: numeric ? "number" : "", ariaSort }, button);
  }

  function line({ key, selected, cells }, columns) {
    const pick = ({ ctrlKey, metaKey, shiftKey }) =>
      model.send({ kind: "pick", key, add: ctrlKey || metaKey, range: shiftKey });
    const onkeydown = (event) => {
      if (event.key === "ArrowDown") node.nextElementSibling?.focus();
      else if (event.key === "ArrowUp") node.previousElementSibling?.focus();
      else if (event.key === "Enter" || event.key === " ") pick(event);
      else return;
      event.preventDefault();
      event.stopPropagation();
    };
    const node = element("tr", { tabIndex: 0, ariaSelected: selected, onclick: pick, onkeydown });
    cells.forEach((text, i) => {
      const { name, numeric } = columns[i], isLong = name === "text" || name === "query";
      const className = numeric ? "number" : isLong ? "long" : "";
      node.append(element("td", { textContent: text, title: text, dir: "auto", className }));
    });
    node.dataset.key = key;
    return node;
  }

  return redraw(model, ["_content"], () => {
    const { columns = [], rows = [], order = [], page = 0, pages = 1 } = model.get("_content");
    const focused = table.contains(document.activeElement) ? document.activeElement.dataset : {};
    const place = focused.key ?? focused.column;
    table.replaceChildren(
      element("thead", {}, element("tr", {}, ...columns.map((column) => heading(column, order)))),
      element("tbody", {}, ...rows.map((row) => line(row, columns))));
    back.disabled = page === 0;
    next.disabled = page >= pages - 1;
    label.textContent = `page ${page + 1} of ${pages}: ${model.get("_content").label ?? ""}`;
    if (place === undefined) return;
    for (const node of table.querySelectorAll("tr[data-key], button[data-column]"))
      if ((node.dataset.key ?? node.dataset.column) === place) node.focus();
  });
}

export default { initialize, render };
