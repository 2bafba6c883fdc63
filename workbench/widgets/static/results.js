// Ranked lists side by side, with lines between neighbors that hold the same document.
const GAP = 30; // pixels between two lists
const svgElement = (name) => document.createElementNS("http://www.w3.org/2000/svg", name);

function render({ model, el }) {
  const root = element("div", { className: "retrieval" });
  el.append(root);
  let join = () => {};

  function item(row) {
    const facts = element("div", { className: "facts" },
      element("b", { textContent: row.rank }), ` ${row.cosine} `);
    for (const { kind, text, title = "" } of row.marks)
      facts.append(element(kind, { textContent: text, title }), " ");
    if (row.id) {
      const name = element("code", { textContent: row.id });
      name.dataset.file = row.file;
      facts.append(name);
    }
    const follow = element("button", { textContent: "›", title: "go to this text" });
    follow.onclick = (event) => {
      event.stopPropagation();
      model.send({ kind: "follow", key: row.key });
    };
    if (model.get("_content").follow) facts.append(follow);
    const text = element("div", { className: "text", dir: "auto", textContent: row.text });
    const card = element("li", { tabIndex: 0, title: row.id }, facts, text);
    const toggle = () => {
      const isPart = row.before || row.after, { before, full, after } = row;
      const whole = isPart ? [before, element("mark", { textContent: full }), after] : [full];
      text.replaceChildren(...(card.classList.toggle("open") ? whole : [row.text]));
      join();
    };
    card.onclick = () => getSelection().isCollapsed && toggle();
    card.onkeydown = (event) => event.key === "Enter" && event.target === card && toggle();
    return card;
  }

  function list({ title, color, facts, times, rows }) {
    const name = element("b", { textContent: title, dir: "auto" });
    name.style.borderColor = color;
    const header = element("header", {}, name);
    for (const words of [facts, times]) if (words) header.append(element("br"), words);
    const cards = element("ol", { ariaLabel: title }, ...rows.map(item));
    return element("section", { ariaLabel: title }, header, cards);
  }

  // A curve from each card to the same document's card in the next list: dashed if it falls.
  function lines(svg, left, right, links) {
    const height = (part, rank) => part.querySelectorAll("li")[rank - 1].getBoundingClientRect().top
      - svg.getBoundingClientRect().top + 14;
    svg.replaceChildren(...links.map(([from, to]) => {
      const path = svgElement("path"), start = height(left, from), end = height(right, to);
      path.setAttribute("d", `M0 ${start} C${GAP / 2} ${start} ${GAP / 2} ${end} ${GAP} ${end}`);
      if (from < to) path.setAttribute("stroke-dasharray", "5 4");
      return path;
    }));
  }

  const stop = redraw(model, ["_content"], () => {
    const { columns = [], links = [] } = model.get("_content");
    const parts = columns.map(list), drawings = links.map(() => svgElement("svg"));
    root.style.gridTemplateColumns = parts.map(() => "minmax(0, 1fr)").join(` ${GAP}px `);
    root.replaceChildren(...parts.flatMap((part, i) => i ? [drawings[i - 1], part] : [part]));
    join = () => drawings.forEach((svg, i) => lines(svg, parts[i], parts[i + 1], links[i]));
    join();
  });
  const watch = new ResizeObserver(() => join());
  watch.observe(root);
  return () => { stop(); watch.disconnect(); };
}

export default { initialize, render };
