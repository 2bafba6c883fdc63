// A figure of plotly. plotly.js is large, so a page loads it once, from a model of its own.
async function load(model) {
  // The rest of the view comes first, since compiling plotly.js takes the browser a second.
  await new Promise((go) => {
    if (window.requestIdleCallback) requestIdleCallback(go, { timeout: 3000 });
    else setTimeout(go, 300);
  });
  const library = await model.widget_manager.get_model(model.get("_library"));
  const packed = new Blob([library.get("code")]).stream();
  const code = await new Response(packed.pipeThrough(new DecompressionStream("gzip"))).text();
  const src = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  await new Promise((onload, reject) => {
    const onerror = () => reject(new Error("plotly.js did not load"));
    document.head.append(element("script", { src, onload, onerror }));
  });
  URL.revokeObjectURL(src);
  return globalThis.Plotly;
}

async function render({ model, el }) {
  const place = element("div", { className: "workbench-chart" });
  place.style.height = `${JSON.parse(model.get("_figure")).layout.height}px`;
  el.append(place);
  const Plotly = await (globalThis.workbenchPlotly ??= load(model));
  let listening = false, failures = 0;

  async function draw() {
    const { data, layout } = JSON.parse(model.get("_figure"));
    place.style.height = `${layout.height}px`;
    const doubleClick = layout.dragmode === "select" ? false : "reset";
    try {
      await Plotly.react(place, data, { ...layout, autosize: true },
        { responsive: false, displaylogo: false, displayModeBar: false, doubleClick });
    } catch (error) { // its cell may have left the page meanwhile
      failures += 1;
      if (failures > 5) throw error;
      setTimeout(draw, 500 * failures);
      return;
    }
    if (!listening) listen();
    listening = true;
  }

  function listen() {
    const at = ({ curveNumber, pointNumber }) => ({ trace: curveNumber, point: pointNumber });
    place.on("plotly_click", ({ points }) => {
      if (points.length) model.send({ kind: "click", ...at(points[0]) });
    });
    place.on("plotly_selected", (event) => {
      if (!event?.points.length) return; // plotly reports an empty selection when its outline goes
      model.send({ kind: "brush", points: event.points.map(at) });
      setTimeout(() => Plotly.relayout(place, { selections: [] }));
    });
  }

  const stop = redraw(model, ["_figure"], draw);
  const watch = new ResizeObserver(() => {
    if (!place.clientWidth) return;
    // A figure whose cell was out of the page may not have been drawn.
    if (place.querySelector(".main-svg")) Plotly.Plots.resize(place);
    else draw();
  });
  watch.observe(place);
  return () => { stop(); watch.disconnect(); Plotly.purge(place); };
}

export default { initialize, render };
