// Ranked lists side by side, with lines between neighbors that hold the same document. A card opens on a click.
const GAP = 30; // pixels between two lists

function item(row, column, model, moved) {
  const facts = element("div", { className: "facts" }, element("b", { textContent: row.rank }), ` ${row.cosine} `);
  for (const { kind, text, title = "" } of row.marks) facts.append(element(kind, { textContent: text, title }), " ");
  if (row.id) facts.append(element("code", { textContent: row.id }));
  const text = element("div", { className: "text", dir: "auto", textContent: row.text });
  const card = element("li", { tabIndex: 0, title: row.id }, facts, text);
  const toggle = () => {
    const open = card.classList.toggle("open");
    text.textContent = open ? row.full : row.text;
    moved();
  };
  if (column.follow) facts.append(element("button", { textContent: "›", title: "go to this text", onclick: (event) => {
    event.stopPropagation();
    model.send({ kind: "follow", key: row.key });
  } }));
  card.onclick = () => getSelection().isCollapsed && toggle();
  card.onkeydown = (event) => { if (event.key === "Enter" && event.target === card) toggle(); };
  return card;
}

function list(column, model, moved) {
  const title = element("b", { textContent: column.title, dir: "auto" });
  title.style.borderColor = column.color;
  const header = element("header", {}, title, ...[column.facts, column.times].filter(Boolean).flatMap((words) => [element("br"), words]));
  const rows = element("ol", {}, ...column.rows.map((row) => item(row, column, model, moved)));
  return element("section", { ariaLabel: column.title }, header, rows);
}

// A curve from each card of one list to the same document's card in the next: solid if it rises or stays, dashed if it
// falls.
function lines(svg, left, right, links) {
  svg.replaceChildren(...links.map(([from, to]) => {
    const [start, end] = [[left, from], [right, to]].map(([part, rank]) =>
      part.querySelectorAll("li")[rank - 1].getBoundingClientRect().top - svg.getBoundingClientRect().top + 14);
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", `M0 ${start} C${GAP / 2} ${start} ${GAP / 2} ${end} ${GAP} ${end}`);
    if (from < to) path.setAttribute("stroke-dasharray", "5 4");
    if (from === to) path.setAttribute("opacity", "0.4");
    return path;
  }));
  svg.ariaLabel = `${links.length} in both lists`;
}

function render({ model, el }) {
  const root = element("div", { className: "retrieval" });
  root.style.setProperty("--gap", `${GAP}px`);
  el.append(root);
  started(el);
  let join = () => {};
  const stop = redraw(model, ["_content"], () => {
    const { columns = [], links = [] } = model.get("_content");
    const parts = columns.map((column) => list(column, model, () => join()));
    const drawings = parts.slice(1).map(() => document.createElementNS("http://www.w3.org/2000/svg", "svg"));
    drawings.forEach((svg) => { svg.setAttribute("width", GAP); svg.setAttribute("role", "img"); });
    root.style.gridTemplateColumns = parts.map(() => "minmax(0, 1fr)").join(" var(--gap) ");
    root.replaceChildren(...parts.flatMap((part, i) => i ? [drawings[i - 1], part] : [part]));
    join = () => drawings.forEach((svg, i) => lines(svg, parts[i], parts[i + 1], links[i] ?? []));
    join();
  });
  const watch = new ResizeObserver(() => join());
  watch.observe(root);
  return () => { stop(); watch.disconnect(); };
}

export default { initialize, render };
