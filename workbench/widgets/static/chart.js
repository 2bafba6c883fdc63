// A figure of plotly. A page loads plotly.js once, from a model of its own.
async function load(model) {
  // The rest of the view comes first, since compiling plotly.js takes the browser a second.
  await new Promise((go) => setTimeout(go, 300));
  const library = await model.widget_manager.get_model(model.get("_library"));
  const bytes = Uint8Array.from(atob(library.get("code")), (letter) => letter.charCodeAt(0));
  const packed = new Blob([bytes]).stream();
  const code = await new Response(packed.pipeThrough(new DecompressionStream("gzip"))).text();
  const src = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  await new Promise((onload, onerror) => {
    document.head.append(element("script", { src, onload, onerror }));
  });
  return globalThis.Plotly;
}

async function render({ model, el }) {
  const place = element("div", { className: "workbench-chart" });
  place.style.height = `${JSON.parse(model.get("_figure")).layout.height}px`;
  el.append(place);
  globalThis.workbenchPlotly ??= load(model).catch((error) => {
    delete globalThis.workbenchPlotly; // the next chart tries again
    throw error;
  });
  const Plotly = await globalThis.workbenchPlotly;
  let drawn = false;

  async function draw() {
    const width = place.clientWidth; // none while its cell is out of the page
    if (!width) return;
    const { data, layout } = JSON.parse(model.get("_figure"));
    const doubleClick = layout.dragmode === "select" ? false : "reset";
    await Plotly.react(place, data, { ...layout, width }, { displayModeBar: false, doubleClick });
    if (drawn) return;
    drawn = true;
    place.on("plotly_click", ({ points: [{ curveNumber, pointNumber }] }) => {
      model.send({ kind: "click", trace: curveNumber, point: pointNumber });
    });
    place.on("plotly_selected", (event) => {
      if (!event?.points.length) return; // plotly reports an empty selection when its outline goes
      const bars = event.points.filter((bar) => bar.curveNumber === 0);
      model.send({ kind: "brush", points: bars.map((bar) => bar.pointNumber) });
      setTimeout(() => Plotly.relayout(place, { selections: [] }));
    });
  }

  const stop = redraw(model, ["_figure"], draw);
  const watch = new ResizeObserver(onceAFrame(draw));
  watch.observe(place);
  return () => { stop(); watch.disconnect(); Plotly.purge(place); };
}

export default { initialize, render };
