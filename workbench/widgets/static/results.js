// Ranked lists side by side, and lines between the same documents in two of them.
// Texts are written with textContent: whatever a text contains, it is shown and never run.
const HEAD = 66, ROW = 76, GAP = 44; // pixels
const RISES = "#009E73", FALLS = "#D55E00"; // COLORS of _view.py

function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

function drawing(name, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function item(row) {
  const facts = element("div", { className: "facts" }, element("b", { textContent: row.rank }), ` ${row.cosine} `);
  for (const { kind, text, title = "" } of row.marks)
    facts.append(element(kind, { textContent: text, title }), " ");
  facts.append(element("code", { textContent: row.id }));
  return element("li", { title: row.title }, facts, element("div", { className: "text", dir: "auto", textContent: row.text }));
}

function list(column) {
  const title = element("b", { textContent: column.title });
  title.style.borderColor = column.color;
  const header = element("header", {}, title, element("br"), column.facts, element("br"), column.times);
  return element("section", { ariaLabel: column.title }, header, element("ol", {}, ...column.rows.map(item)));
}

// A curve from each document's row in one list to its row in the next: solid if it rises or stays, dashed if it falls.
function lines(links, rows) {
  const paths = links.map(([from, to]) => {
    const [start, end] = [from, to].map((rank) => ROW * (rank - 0.5) - 3);
    return drawing("path", {
      d: `M0 ${start} C${GAP / 2} ${start} ${GAP / 2} ${end} ${GAP} ${end}`, fill: "none", "stroke-width": 2,
      stroke: from > to ? RISES : from < to ? FALLS : "currentColor", ...(from < to && { "stroke-dasharray": "5 4" }) });
  });
  const label = `${links.length} documents in both columns`;
  return drawing("svg", { width: GAP, height: ROW * rows, role: "img", "aria-label": label }, ...paths);
}

function render({ model, el }) {
  const root = element("div", { className: "retrieval" });
  for (const [name, pixels] of Object.entries({ head: HEAD, row: ROW, gap: GAP }))
    root.style.setProperty(`--${name}`, `${pixels}px`);
  el.append(root);
  function draw() {
    const { columns = [], links = [] } = model.get("content");
    const rows = Math.max(0, ...columns.map((column) => column.rows.length));
    root.replaceChildren(...columns.flatMap((column, i) =>
      i ? [lines(links[i - 1], rows), list(column)] : [list(column)]));
  }
  model.on("change:content", draw);
  draw();
  return () => model.off("change:content", draw);
}

export default { render };
