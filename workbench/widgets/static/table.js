// Cells are written with textContent: whatever a text contains, it is shown and never run.
function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

function render({ model, el }) {
  const table = element("table", { className: "workbench-table" });
  table.setAttribute("role", "grid");
  table.setAttribute("aria-multiselectable", "true");
  const label = element("span", { className: "label" });
  label.setAttribute("role", "status");
  const back = element("button", { textContent: "‹ Previous" });
  const next = element("button", { textContent: "Next ›" });
  back.onclick = () => model.send({ kind: "page", page: model.get("_page") - 1 });
  next.onclick = () => model.send({ kind: "page", page: model.get("_page") + 1 });
  el.classList.add("workbench");
  el.append(element("div", { className: "scroll" }, table), element("div", { className: "pager" }, back, next, label));

  function heading(column) {
    const [by, descending] = model.get("_order");
    const sorted = by === column.name;
    const button = element("button");
    for (const part of column.name.split(/(?<=_)/)) button.append(part, element("wbr")); // long names may break here
    if (sorted) button.append(descending ? " ▼" : " ▲");
    button.dataset.column = column.name;
    button.onclick = () => model.send({ kind: "sort", column: column.name });
    const cell = element("th", { scope: "col", className: column.numeric ? "number" : "" }, button);
    cell.setAttribute("aria-sort", sorted ? (descending ? "descending" : "ascending") : "none");
    return cell;
  }

  function line(row, columns) {
    const cells = row.cells.map((text, i) =>
      element("td", { textContent: text, title: text, dir: "auto", className: columns[i]?.numeric ? "number" : "" }));
    const node = element("tr", { tabIndex: 0 }, ...cells);
    node.dataset.key = row.key;
    node.setAttribute("aria-selected", row.selected);
    const pick = (event) => model.send({
      kind: "pick", key: row.key, add: event.ctrlKey || event.metaKey, range: event.shiftKey });
    node.onclick = pick;
    node.onkeydown = (event) => {
      const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
      if (step) node[step]?.focus();
      else if (event.key === "Enter" || event.key === " ") pick(event);
      else return;
      event.preventDefault();
      event.stopPropagation();
    };
    return node;
  }

  function draw() {
    const focused = table.contains(document.activeElement) ? document.activeElement : null;
    const place = focused && (focused.dataset.key ?? focused.dataset.column);
    const columns = model.get("_columns");
    table.replaceChildren(
      element("thead", {}, element("tr", {}, ...columns.map(heading))),
      element("tbody", {}, ...model.get("_rows").map((row) => line(row, columns))));
    const pages = model.get("_pages"), page = model.get("_page");
    back.disabled = page === 0;
    next.disabled = page >= pages - 1;
    label.textContent = `page ${page + 1} of ${pages}: ${model.get("_label")}`;
    if (place) for (const node of table.querySelectorAll("tr[data-key], button[data-column]"))
      if ((node.dataset.key ?? node.dataset.column) === place) node.focus();
  }

  let waiting = false; // several traits change together: one drawing is enough
  const redraw = () => {
    if (waiting) return;
    waiting = true;
    queueMicrotask(() => { waiting = false; draw(); });
  };
  model.on("change:_columns change:_rows change:_page change:_pages change:_order change:_label", redraw);
  draw();
  return () => model.off("change:_columns change:_rows change:_page change:_pages change:_order change:_label", redraw);
}

export default { render };
