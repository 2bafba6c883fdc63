function render({ model, el }) {
  const table = element("table", { className: "workbench-table", role: "grid", ariaMultiSelectable: "true" });
  const label = element("span", { className: "label", role: "status" });
  const turn = (by) => () => model.send({ kind: "page", page: model.get("_content").page + by });
  const back = element("button", { textContent: "‹ Previous", onclick: turn(-1) });
  const next = element("button", { textContent: "Next ›", onclick: turn(1) });
  started(el);
  el.append(element("div", { className: "scroll" }, table), element("div", { className: "pager" }, back, next, label));

  function heading({ name, numeric, title }, [by, descending]) {
    const sorted = by === name;
    const button = element("button", { title, onclick: () => model.send({ kind: "sort", column: name }) });
    button.dataset.column = name;
    for (const part of name.split(/(?<=_)/)) button.append(part, element("wbr")); // long names may break here
    if (sorted) button.append(descending ? " ▼" : " ▲");
    const ariaSort = sorted ? (descending ? "descending" : "ascending") : "none";
    return element("th", { scope: "col", className: numeric ? "number" : "", ariaSort }, button);
  }

  function line({ key, selected, cells }, columns) {
    const pick = (event) => model.send({ kind: "pick", key, add: event.ctrlKey || event.metaKey, range: event.shiftKey });
    const onkeydown = (event) => {
      const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
      if (step) node[step]?.focus();
      else if (event.key === "Enter" || event.key === " ") pick(event);
      else return;
      event.preventDefault();
      event.stopPropagation();
    };
    const node = element("tr", { tabIndex: 0, ariaSelected: selected, onclick: pick, onkeydown }, ...cells.map((text, i) =>
      element("td", { textContent: text, title: text, dir: "auto", className: columns[i].numeric ? "number" : columns[i].long ? "long" : "" })));
    node.dataset.key = key;
    return node;
  }

  function draw() {
    const { columns = [], rows = [], order = [], page = 0, pages = 1, label: words = "" } = model.get("_content");
    const focused = table.contains(document.activeElement) ? document.activeElement.dataset : {};
    const place = focused.key ?? focused.column;
    table.replaceChildren(
      element("thead", {}, element("tr", {}, ...columns.map((column) => heading(column, order)))),
      element("tbody", {}, ...rows.map((row) => line(row, columns))));
    back.disabled = page === 0;
    next.disabled = page >= pages - 1;
    label.textContent = `page ${page + 1} of ${pages}: ${words}`;
    if (place) for (const node of table.querySelectorAll("tr[data-key], button[data-column]"))
      if ((node.dataset.key ?? node.dataset.column) === place) node.focus();
  }

  return redraw(model, ["_content"], draw);
}

export default { initialize, render };
