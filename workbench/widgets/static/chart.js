// A figure of plotly. plotly.js is large, so it is loaded once a page, from a model that the kernel has made once.
async function plotly(model) {
  globalThis.workbenchPlotly ??= (async () => {
    // Not before the rest of the view is on the page: it takes the browser a second.
    await new Promise((go) => { if (window.requestIdleCallback) requestIdleCallback(go, { timeout: 3000 }); else setTimeout(go, 300); });
    const library = await model.widget_manager.get_model(model.get("_library"));
    const packed = new Blob([library.get("code")]).stream().pipeThrough(new DecompressionStream("gzip"));
    const url = URL.createObjectURL(new Blob([await new Response(packed).text()], { type: "text/javascript" }));
    const script = element("script", { src: url });
    await new Promise((resolve, reject) => { // a script, which the browser compiles beside the page
      Object.assign(script, { onload: resolve, onerror: () => reject(new Error("plotly.js did not load")) });
      document.head.append(script);
    });
    URL.revokeObjectURL(url);
    return globalThis.Plotly;
  })();
  return globalThis.workbenchPlotly;
}

async function render({ model, el }) {
  const place = element("div", { className: "workbench-chart" });
  place.style.height = `${model.get("_height")}px`;
  el.append(place);
  started(el);
  const Plotly = await plotly(model);
  let first = true, failed = 0;
  const draw = async () => {
    const { data, layout } = JSON.parse(model.get("_figure"));
    place.style.height = `${layout.height}px`;
    try {
      await Plotly.react(place, data, { ...layout, autosize: true }, { responsive: false, displaylogo: false,
        displayModeBar: false, doubleClick: layout.dragmode === "select" ? false : "reset" });
    } catch (error) { // its cell may have left the page meanwhile
      if (++failed > 5) throw error;
      setTimeout(draw, 500 * failed);
      return;
    }
    if (!first) return;
    first = false;
    const at = ({ curveNumber, pointNumber }) => ({ trace: curveNumber, point: pointNumber });
    place.on("plotly_click", ({ points }) => points.length && model.send({ kind: "click", ...at(points[0]) }));
    place.on("plotly_doubleclick", () => model.send({ kind: "clear" }));
    place.on("plotly_selected", (event) => {
      if (!event?.points.length) return; // plotly says so again when the outline goes
      model.send({ kind: "brush", points: event.points.map(at) });
      setTimeout(() => Plotly.relayout(place, { selections: [] }));
    });
  };
  const stop = redraw(model, ["_figure"], draw);
  const watch = new ResizeObserver(() => {
    if (!place.clientWidth) return;
    // A figure that was drawn while its cell was out of the page may have failed: it is drawn again when it is seen.
    if (place.querySelector(".main-svg")) Plotly.Plots.resize(place); else draw();
  });
  watch.observe(place);
  return () => { stop(); watch.disconnect(); Plotly.purge(place); };
}

export default { initialize, render };
