// Points of one or two models in a plane, on a canvas of two dimensions: it needs no WebGL, of which a page has few
// contexts and a server without a graphics card a slow imitation. Many points are drawn pixel by pixel, so that places
// where they overlap show how many there are.
const MANY = 4000; // with more points, pixels instead of shapes
const FAINT = 0.22; // opacity of what is not selected

const floats = (view) => new Float32Array(view.buffer, view.byteOffset, view.byteLength / 4);
const bytes = (view) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

function render({ model, el }) {
  const canvas = element("canvas", { className: "workbench-map", tabIndex: 0, role: "img" });
  const over = element("canvas", { className: "workbench-over" });
  const tip = element("div", { className: "workbench-tip", hidden: true });
  const legend = element("div", { className: "workbench-legend" });
  const bar = element("div", { className: "workbench-tools" });
  const frame = element("div", { className: "workbench-frame" }, canvas, over, tip, bar);
  frame.style.height = `${model.get("_height")}px`;
  el.append(legend, frame);
  started(el);

  let points = [], chosen = new Set(), codes = null, width = 0, height = 0, density = devicePixelRatio;
  let view = { x: 0, y: 0, scale: 1 }, tool = "lasso", drag = null, hovered = -1, tips = new Map();

  // Shares of the frame to pixels of the screen, with a margin, and back.
  const margin = 14;
  const across = (x) => margin + (width - 2 * margin) * ((x - view.x) * view.scale);
  const down = (y) => margin + (height - 2 * margin) * (1 - (y - view.y) * view.scale);
  const unacross = (px) => (px - margin) / (width - 2 * margin) / view.scale + view.x;
  const undown = (px) => (1 - (px - margin) / (height - 2 * margin)) / view.scale + view.y;

  function take() {
    points = model.get("_sets").map(({ xy }) => floats(xy));
    fit(null);
    draw();
  }

  // Show all points, or those of the selection.
  function fit(some) {
    let [left, right, low, high] = [Infinity, -Infinity, Infinity, -Infinity];
    for (const xy of points) {
      const one = (i) => {
        if (xy[2 * i] < left) left = xy[2 * i];
        if (xy[2 * i] > right) right = xy[2 * i];
        if (xy[2 * i + 1] < low) low = xy[2 * i + 1];
        if (xy[2 * i + 1] > high) high = xy[2 * i + 1];
      };
      if (some?.size) for (const i of some) one(i);
      else for (let i = 0; i < xy.length / 2; i++) one(i);
    }
    if (left > right) return;
    // Python sends coordinates from 0 to 1; a selection is shown with some room around it.
    const span = Math.max(right - left, high - low, 0.02) * (some?.size ? 1.15 : 1);
    view = some?.size ? { scale: 1 / span, x: (left + right - span) / 2, y: (low + high - span) / 2 }
      : { x: 0, y: 0, scale: 1 };
  }

  function colors(set) {
    const { palette = [] } = model.get("_colors");
    if (palette.length) return { palette: palette.map(rgb), code: (i) => codes[i] };
    const own = [rgb(model.get("_sets")[set].color)];
    return { palette: own, code: () => 0 };
  }

  function draw() {
    if (!width || !height) return;
    const context = canvas.getContext("2d"), sets = model.get("_sets");
    canvas.ariaLabel = `Map of ${points[0] ? points[0].length / 2 : 0} texts, ${chosen.size} selected`;
    context.setTransform(density, 0, 0, density, 0, 0);
    context.clearRect(0, 0, width, height);
    join(context, model.get("_lines"));
    const many = points.reduce((sum, xy) => sum + xy.length / 2, 0) > MANY;
    if (many) pixels(context);
    else points.forEach((xy, set) => shapes(context, xy, set, sets[set].shape));
    name(context);
    trace();
  }

  // The names of regions, the largest region's first; what would lie on another name waits for a closer look.
  function name(context) {
    const style = getComputedStyle(el), taken = [];
    context.font = "600 11px system-ui, sans-serif";
    context.textAlign = "center";
    context.lineJoin = "round";
    context.lineWidth = 3;
    context.strokeStyle = style.getPropertyValue("--paper") || "#fff";
    context.fillStyle = style.getPropertyValue("--ink") || "#333";
    for (const { text, at: [a, b] } of model.get("_labels")) {
      const half = context.measureText(text).width / 2 + 4, place = across(a), y = Math.max(down(b), 40);
      if (place < 0 || place > width || down(b) < 0 || y > height) continue;
      const x = Math.min(Math.max(place, half), width - half);
      if (taken.some(([u, v, w]) => Math.abs(u - x) < w + half && Math.abs(v - y) < 15)) continue;
      taken.push([x, y, half]);
      context.strokeText(text, x, y);
      context.fillText(text, x, y);
    }
  }

  // A line from the first model's point of a text to the second's: for these texts, or for what is selected.
  function join(context, lines) {
    if (points.length < 2 || lines === "none") return;
    const [from, to] = points, which = lines === "all" && !chosen.size ? from.keys() : chosen.values();
    context.beginPath();
    let left = 20000;
    for (const i of which) {
      if (i >= from.length / 2 || !left--) break;
      context.moveTo(across(from[2 * i]), down(from[2 * i + 1]));
      context.lineTo(across(to[2 * i]), down(to[2 * i + 1]));
    }
    context.strokeStyle = "rgba(128,128,128,.5)";
    context.lineWidth = 1;
    context.stroke();
  }

  function shapes(context, xy, set, shape) {
    const { palette, code } = colors(set), count = xy.length / 2;
    for (const lit of chosen.size ? [false, true] : [true]) {
      context.globalAlpha = lit ? 0.85 : FAINT;
      for (let i = 0; i < count; i++) {
        if (chosen.size && chosen.has(i) !== lit) continue;
        const x = across(xy[2 * i]), y = down(xy[2 * i + 1]), size = lit && chosen.size ? 4.5 : 3.4;
        context.fillStyle = `rgb(${palette[code(i)]})`;
        context.beginPath();
        if (shape === "diamond") {
          context.moveTo(x, y - size - 1);
          for (const [a, b] of [[1, 0], [0, 1], [-1, 0]]) context.lineTo(x + a * (size + 1), y + b * (size + 1));
        } else context.arc(x, y, size, 0, 7);
        context.fill();
      }
    }
    context.globalAlpha = 1;
  }

  // Each pixel takes the mean color of its points, and the more of them the more opaque it is.
  function pixels(context) {
    const w = canvas.width, h = canvas.height, size = Math.max(2, Math.round((points[0].length > 60000 ? 1.5 : 2.5) * density));
    const sum = new Float32Array(4 * w * h), image = context.createImageData(w, h);
    points.forEach((xy, set) => {
      const { palette, code } = colors(set);
      for (let i = 0; i < xy.length / 2; i++) {
        const x = Math.round(across(xy[2 * i]) * density), y = Math.round(down(xy[2 * i + 1]) * density);
        if (x < 0 || y < 0 || x >= w - size || y >= h - size) continue;
        const weight = !chosen.size ? 1 : chosen.has(i) ? 50 : 0.3, color = palette[code(i)];
        for (let b = y; b < y + size; b++)
          for (let at = 4 * (b * w + x), end = at + 4 * size; at < end; at += 4) {
            sum[at] += weight * color[0];
            sum[at + 1] += weight * color[1];
            sum[at + 2] += weight * color[2];
            sum[at + 3] += weight;
          }
      }
    });
    for (let at = 0; at < sum.length; at += 4) {
      const weight = sum[at + 3];
      if (!weight) continue;
      for (let c = 0; c < 3; c++) image.data[at + c] = sum[at + c] / weight;
      image.data[at + 3] = 255 * (1 - Math.pow(0.45, weight));
    }
    const layer = new OffscreenCanvas(w, h);
    layer.getContext("2d").putImageData(image, 0, 0);
    context.drawImage(layer, 0, 0, width, height);
  }

  // The lasso, and a ring around what the pointer is on.
  function trace() {
    const context = over.getContext("2d");
    context.setTransform(density, 0, 0, density, 0, 0);
    context.clearRect(0, 0, width, height);
    context.strokeStyle = getComputedStyle(el).getPropertyValue("--accent") || "#1976d2";
    context.lineWidth = 2;
    if (hovered >= 0) for (const xy of points) {
      context.beginPath();
      context.arc(across(xy[2 * hovered]), down(xy[2 * hovered + 1]), 8, 0, 7);
      context.stroke();
    }
    if (!drag?.path) return;
    context.beginPath();
    drag.path.forEach(([x, y], at) => at ? context.lineTo(x, y) : context.moveTo(x, y));
    context.closePath();
    context.stroke();
    context.globalAlpha = 0.1;
    context.fillStyle = context.strokeStyle;
    context.fill();
    context.globalAlpha = 1;
  }

  function inside(path) {
    const found = new Set(), xs = path.map(([x]) => x), ys = path.map(([, y]) => y);
    const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    for (const xy of points) for (let i = 0; i < xy.length / 2; i++) {
      const x = across(xy[2 * i]), y = down(xy[2 * i + 1]);
      if (x < left || x > right || y < top || y > bottom) continue;
      let odd = false;
      for (let a = 0, b = path.length - 1; a < path.length; b = a++)
        if (ys[a] > y !== ys[b] > y && x < (xs[b] - xs[a]) * (y - ys[a]) / (ys[b] - ys[a]) + xs[a]) odd = !odd;
      if (odd) found.add(i);
    }
    return found;
  }

  function nearest(px, py, most = 12) {
    let best = most * most, found = -1;
    for (const xy of points) for (let i = 0; i < xy.length / 2; i++) {
      const x = across(xy[2 * i]) - px, y = down(xy[2 * i + 1]) - py, far = x * x + y * y;
      if (far < best) [best, found] = [far, i];
    }
    return found;
  }

  // Python decides what is selected; the page shows at once what it has asked for.
  function choose(found) {
    chosen = found;
    model.send({ kind: "select" }, undefined, [Uint32Array.from(found).buffer]); // Python works while the page draws
    later();
  }

  function show(i, x, y) {
    hovered = i;
    tip.hidden = i < 0;
    trace();
    if (i < 0) return;
    const { texts } = model.get("_colors");
    if (texts) tips.set(i, texts[i]);
    else if (!tips.has(i)) { tips.set(i, "…"); model.send({ kind: "tip", row: i }); }
    tip.textContent = tips.get(i);
    tip.style.cssText = x < width / 2 ? `left:${x + 14}px` : `right:${width - x + 14}px`;
    tip.style[y < height / 2 ? "top" : "bottom"] = `${(y < height / 2 ? y : height - y) + 14}px`;
  }

  const place = (event) => [event.offsetX, event.offsetY];
  over.onpointerdown = (event) => {
    const pan = tool === "pan" || event.shiftKey || event.button === 1;
    drag = pan ? { from: place(event), view: { ...view } } : { path: [place(event)] };
    over.setPointerCapture(event.pointerId);
    canvas.focus({ preventScroll: true });
    show(-1);
  };
  let waiting = 0;
  over.onpointermove = (event) => {
    const [x, y] = place(event);
    if (drag?.path) { drag.path.push([x, y]); trace(); return; }
    if (drag) {
      view = { ...drag.view, x: drag.view.x - (x - drag.from[0]) / (width - 2 * margin) / view.scale,
        y: drag.view.y + (y - drag.from[1]) / (height - 2 * margin) / view.scale };
      later();
    } else if (!waiting) {
      waiting = requestAnimationFrame(() => { waiting = 0; if (!drag) show(nearest(x, y), x, y); });
    }
  };
  over.onpointerup = (event) => {
    const { path } = drag ?? {}, [x, y] = place(event);
    drag = null;
    if (path) {
      const moved = path.some(([a, b]) => Math.hypot(a - path[0][0], b - path[0][1]) > 4);
      const hit = nearest(x, y);
      if (moved) choose(inside(path)); else if (hit >= 0) choose(new Set([hit])); else if (chosen.size) choose(new Set());
      trace();
    }
  };
  over.onpointercancel = () => { drag = null; trace(); };
  over.onpointerleave = () => {
    cancelAnimationFrame(waiting); // the pointer may move and leave within one frame
    waiting = 0;
    show(-1);
  };
  over.onwheel = (event) => {
    event.preventDefault();
    const [x, y] = place(event), [a, b] = [unacross(x), undown(y)];
    const scale = Math.min(500, Math.max(0.5, view.scale * Math.exp(-event.deltaY / 400)));
    view = { scale, x: a - (a - view.x) * view.scale / scale, y: b - (b - view.y) * view.scale / scale };
    later();
  };
  canvas.onkeydown = (event) => {
    const step = 0.1 / view.scale, key = event.key;
    if (key === "Escape") choose(new Set());
    else if (key === "0") fit(null);
    else if (key === "+" || key === "-") {
      const scale = view.scale * (key === "+" ? 1.3 : 1 / 1.3), middle = 0.5 / view.scale - 0.5 / scale;
      view = { scale, x: view.x + middle, y: view.y + middle };
    } else if (key === "ArrowLeft") view.x -= step;
    else if (key === "ArrowRight") view.x += step;
    else if (key === "ArrowUp") view.y += step;
    else if (key === "ArrowDown") view.y -= step;
    else return;
    event.preventDefault();
    event.stopPropagation();
    later();
  };

  let asked = false;
  function later() {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; draw(); });
  }

  const button = (label, title, onclick) => {
    const node = element("button", { textContent: label, title, onclick });
    bar.append(node);
    return node;
  };
  const use = (name) => () => {
    tool = name;
    lasso.ariaPressed = name === "lasso";
    pan.ariaPressed = name === "pan";
  };
  const lasso = button("lasso", "draw around points to select them", use("lasso"));
  const pan = button("pan", "drag to move the map (or Shift and drag); the wheel zooms", use("pan"));
  button("zoom to selection", "show the selected points, or all", () => { fit(chosen); draw(); });
  button("all", "show all points (0)", () => { fit(null); draw(); });
  button("clear", "select nothing (Esc)", () => choose(new Set()));
  use("lasso")();

  function explain() {
    const { title = "", entries = [], ramp = null } = model.get("_colors"), sets = model.get("_sets");
    const chip = ({ color, label, code }) => {
      const dot = element("i", {});
      dot.style.background = color;
      const node = element(code === undefined ? "span" : "button", { dir: "auto" }, dot, label);
      if (code !== undefined) Object.assign(node, { title: "select these", onclick: () => model.send({ kind: "category", code }) });
      return node;
    };
    legend.replaceChildren(...(title ? [element("b", { textContent: title })] : []));
    if (ramp) {
      const strip = element("i", { className: "ramp" });
      strip.style.background = `linear-gradient(90deg, ${ramp.colors.join()})`;
      legend.append(element("span", {}, ramp.low), strip, element("span", {}, ramp.high));
    }
    legend.append(...entries.map(chip));
    if (sets.length > 1 || !ramp) legend.append(...sets.map(({ name, shape, color }) =>
      element("span", { dir: "auto" }, element("span", { className: "shape", textContent: shape === "diamond" ? "◆" : "●",
        style: title ? "" : `color:${color}` }), ` ${name}`)));
  }

  function recolor() {
    const { codes: packed } = model.get("_colors");
    codes = packed ? bytes(packed) : null;
    tips.clear();
    explain();
    draw();
  }
  const watch = new ResizeObserver(([entry]) => {
    ({ width, height } = entry.contentRect);
    density = devicePixelRatio;
    for (const each of [canvas, over]) Object.assign(each, { width: Math.round(width * density), height: Math.round(height * density) });
    draw();
  });
  watch.observe(frame);
  const stops = [
    redraw(model, ["_colors"], recolor),
    redraw(model, ["_sets"], () => { take(); explain(); }),
    redraw(model, ["_lines"], draw),
    redraw(model, ["_labels"], draw),
    redraw(model, ["_selected"], () => {
      const packed = model.get("_selected");
      chosen = new Set(new Uint32Array(packed.buffer.slice(packed.byteOffset, packed.byteOffset + packed.byteLength)));
      draw();
    }),
  ];
  const heard = ({ kind, row, text }) => {
    if (kind !== "tip") return;
    tips.set(row, text);
    if (row === hovered) tip.textContent = text;
  };
  model.on("msg:custom", heard);
  return () => { stops.forEach((stop) => stop()); watch.disconnect(); model.off("msg:custom", heard); };
}

export default { initialize, render };
