// Points of one or two models in a plane, without WebGL, of which a page has few contexts.
const MANY = 4000; // with more points, they are smaller
const MARGIN = 14; // pixels around the points
const ALL = { x: 0, y: 0, scale: 1 }; // the corner and the zoom that show all points

// Return the red, green, blue and alpha of colors.
function rgba(names) {
  const context = new OffscreenCanvas(names.length, 1).getContext("2d");
  names.forEach((name, i) => {
    context.fillStyle = name;
    context.fillRect(i, 0, 1, 1);
  });
  return context.getImageData(0, 0, names.length, 1).data;
}

// Return the pixels of a disc or a diamond, each with the share that is covered.
function stamp(isDiamond, radius, reach) {
  const cells = [];
  for (let y = -reach; y <= reach; y++)
    for (let x = -reach; x <= reach; x++) {
      const distance = isDiamond ? 0.8 * (Math.abs(x) + Math.abs(y)) : Math.hypot(x, y);
      const share = Math.min(1, radius + 0.5 - distance);
      if (share > 0) cells.push({ x, y, share });
    }
  return cells;
}

const asArray = (Kind, { buffer, byteOffset, byteLength }) =>
  new Kind(buffer.slice(byteOffset, byteOffset + byteLength));

function render({ model, el }) {
  const canvas = element("canvas", { className: "workbench-map", tabIndex: 0, role: "img" });
  const overlay = element("canvas", { className: "workbench-over" });
  const tip = element("div", { className: "workbench-tip", hidden: true });
  const legend = element("div", { className: "workbench-legend" });
  const bar = element("div", { className: "workbench-tools" });
  const frame = element("div", { className: "workbench-frame" }, canvas, overlay, tip, bar);
  el.append(legend, frame);

  let sets = [], colors = {}, points = [], codes = null, count = 0, chosen = new Set();
  let width = 0, height = 0, view = ALL, pointer = null, drag = null, hovered = -1;

  // Places are shares of the frame, as Python sends them, from below; pixels are from above.
  const across = (x) => MARGIN + (width - 2 * MARGIN) * ((x - view.x) * view.scale);
  const down = (y) => MARGIN + (height - 2 * MARGIN) * (1 - (y - view.y) * view.scale);
  const pixel = (xy, i) => [across(xy[2 * i]), down(xy[2 * i + 1])];
  const toPlace = ([x, y]) =>
    [(x - MARGIN) / (width - 2 * MARGIN), 1 - (y - MARGIN) / (height - 2 * MARGIN)];
  const isDiamond = (set) => sets.length > 1 && set === 0;

  function cleared(layer) {
    const context = layer.getContext("2d");
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    context.clearRect(0, 0, width, height);
    return context;
  }

  function paint() {
    if (!width || !height) return;
    const context = cleared(canvas);
    canvas.ariaLabel = `Map of ${count} texts, ${chosen.size} selected`;
    drawLines(context);
    if (chosen.size) drawPoints(context, (i) => !chosen.has(i), 0.22);
    drawPoints(context, (i) => !chosen.size || chosen.has(i), chosen.size ? 0.95 : 0.8);
    drawLabels(context);
    drawOverlay();
  }
  const draw = onceAFrame(paint);

  // A line from each selected text's point to where it is for the other model.
  function drawLines(context) {
    if (points.length < 2) return;
    context.beginPath();
    for (const i of [...chosen].slice(0, 5000)) {
      context.moveTo(...pixel(points[0], i));
      context.lineTo(...pixel(points[1], i));
    }
    Object.assign(context, { strokeStyle: "#8888", lineWidth: 1 });
    context.stroke();
  }

  // A pixel takes the mean color of its points: many times faster than a path for each point.
  function drawPoints(context, has, opacity) {
    const w = canvas.width, h = canvas.height, many = points.length * count > MANY;
    const radius = (many ? 1.3 : 3.4) * devicePixelRatio, reach = Math.ceil(1.3 * radius);
    const sum = new Float32Array(4 * w * h), image = context.createImageData(w, h);
    points.forEach((xy, set) => {
      const palette = rgba(codes ? colors.palette : [sets[set].color]);
      const cells = stamp(isDiamond(set), radius, reach);
      for (let i = 0; i < count; i++) {
        const [x, y] = pixel(xy, i).map((place) => Math.round(place * devicePixelRatio));
        const color = codes ? 4 * codes[i] : 0;
        if (x < reach || y < reach || x >= w - reach || y >= h - reach || !has(i)) continue;
        for (const cell of cells) {
          const at = 4 * ((y + cell.y) * w + x + cell.x);
          for (let c = 0; c < 3; c++) sum[at + c] += cell.share * palette[color + c];
          sum[at + 3] += cell.share;
        }
      }
    });
    for (let at = 0; at < sum.length; at += 4) {
      if (!sum[at + 3]) continue;
      for (let c = 0; c < 3; c++) image.data[at + c] = sum[at + c] / sum[at + 3];
      image.data[at + 3] = 255 * (1 - (1 - opacity) ** sum[at + 3]);
    }
    const layer = new OffscreenCanvas(w, h);
    layer.getContext("2d").putImageData(image, 0, 0);
    context.drawImage(layer, 0, 0, width, height);
  }

  // What would lie on the name of a larger region is left out.
  function drawLabels(context) {
    const taken = [];
    const theme = getComputedStyle(el), strokeStyle = theme.getPropertyValue("--paper");
    Object.assign(context, { font: "600 11px system-ui, sans-serif", textAlign: "center",
      lineJoin: "round", lineWidth: 3, strokeStyle, fillStyle: theme.color });
    for (const { text, at } of model.get("_labels")) {
      const half = context.measureText(text).width / 2 + 4, [place, level] = pixel(at, 0);
      if (place < 0 || place > width || level < 0 || level > height) continue;
      const x = Math.min(Math.max(place, half), width - half), y = Math.max(level, 40);
      if (taken.some(([u, v, w]) => Math.abs(u - x) < w + half && Math.abs(v - y) < 15)) continue;
      taken.push([x, y, half]);
      context.strokeText(text, x, y);
      context.fillText(text, x, y);
    }
  }

  // The lasso, and a ring around what the pointer is on.
  function drawOverlay() {
    const context = cleared(overlay), shape = outline(drag?.path ?? []);
    Object.assign(context, { strokeStyle: "#1976d2", lineWidth: 2, fillStyle: "#8882" });
    if (hovered >= 0)
      for (const [x, y] of points.map((xy) => pixel(xy, hovered))) {
        shape.moveTo(x + 8, y);
        shape.arc(x, y, 8, 0, 7);
      }
    context.stroke(shape);
    context.fill(shape);
  }

  function outline(path) {
    const shape = new Path2D();
    for (const corner of path) shape.lineTo(...corner);
    shape.closePath();
    return shape;
  }

  function inside(path) {
    const rows = new Set(), lasso = outline(path);
    const context = new OffscreenCanvas(1, 1).getContext("2d");
    for (const xy of points)
      for (let i = 0; i < count; i++)
        if (context.isPointInPath(lasso, ...pixel(xy, i), "evenodd")) rows.add(i);
    return rows;
  }

  function nearest([px, py]) {
    let best = 12 * 12, row = -1; // at most 12 pixels away
    for (const xy of points)
      for (let i = 0; i < count; i++) {
        const [x, y] = pixel(xy, i), far = (x - px) ** 2 + (y - py) ** 2;
        if (far < best) [best, row] = [far, i];
      }
    return row;
  }

  // The page shows at once what it has asked Python for.
  function choose(rows) {
    chosen = new Set(rows);
    model.send({ kind: "select" }, undefined, [Uint32Array.from(rows).buffer]);
    draw();
  }

  const moveView = (change) => { view = { ...view, ...change }; draw(); };
  const pan = (x, y) => moveView({ x: view.x + x / view.scale, y: view.y + y / view.scale });
  function zoom(factor, [x, y] = [0.5, 0.5]) {
    const scale = Math.min(500, Math.max(0.5, view.scale * factor));
    const moved = 1 / view.scale - 1 / scale; // what is at that place stays there
    moveView({ scale, x: view.x + x * moved, y: view.y + y * moved });
  }

  function hover(i) {
    if (i === hovered) return;
    hovered = i;
    tip.hidden = i < 0;
    drawOverlay();
    if (i < 0) return;
    const [x, y] = pointer;
    tip.textContent = colors.texts?.[i] ?? "…";
    if (!colors.texts) model.send({ kind: "tip", row: i });
    tip.style.cssText = x < width / 2 ? `left:${x + 14}px` : `right:${width - x + 14}px`;
    tip.style[y < height / 2 ? "top" : "bottom"] = `${Math.min(y, height - y) + 14}px`;
  }
  const hoverSoon = onceAFrame(() => pointer && !drag && hover(nearest(pointer)));

  overlay.onpointerdown = (event) => {
    if (event.button) return;
    pointer = [event.offsetX, event.offsetY];
    drag = event.shiftKey ? {} : { path: [pointer] };
    overlay.setPointerCapture(event.pointerId);
    canvas.focus({ preventScroll: true });
    hover(-1);
  };
  overlay.onpointermove = (event) => {
    const before = pointer;
    pointer = [event.offsetX, event.offsetY];
    if (!drag) hoverSoon();
    else if (drag.path) {
      drag.path.push(pointer);
      drawOverlay();
    } else {
      const [a, b] = toPlace(before), [x, y] = toPlace(pointer);
      pan(a - x, b - y);
    }
  };
  overlay.onpointerup = () => {
    const path = drag?.path;
    drag = null;
    drawOverlay();
    if (!path) return;
    const [[startX, startY]] = path, hit = nearest(pointer);
    if (path.some(([x, y]) => Math.hypot(x - startX, y - startY) > 4)) choose(inside(path));
    else choose(hit < 0 ? [] : [hit]);
  };
  overlay.onpointercancel = () => { drag = null; drawOverlay(); };
  overlay.onpointerleave = () => { pointer = null; hover(-1); };
  overlay.onwheel = (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 400), toPlace([event.offsetX, event.offsetY]));
  };
  const keys = {
    Escape: () => choose([]), 0: () => moveView(ALL),
    "+": () => zoom(1.3), "-": () => zoom(1 / 1.3),
    ArrowLeft: () => pan(-0.1, 0), ArrowRight: () => pan(0.1, 0),
    ArrowUp: () => pan(0, 0.1), ArrowDown: () => pan(0, -0.1),
  };
  canvas.onkeydown = (event) => {
    if (!Object.hasOwn(keys, event.key)) return;
    keys[event.key]();
    event.preventDefault();
    event.stopPropagation();
  };
  for (const [textContent, title, key] of [
    ["all", "show all points (0); the wheel zooms, Shift and drag moves the map", "0"],
    ["clear", "select nothing (Esc); drag to select", "Escape"],
  ]) bar.append(element("button", { textContent, title, onclick: keys[key] }));

  function drawLegend() {
    const { title, labels = [], ramp } = colors;
    const patch = (background, className = "") =>
      element("i", { className, style: `background: ${background}` });
    legend.replaceChildren(element("b", { textContent: title ?? "" }));
    if (ramp) legend.append(ramp.low,
      patch(`linear-gradient(90deg, ${ramp.colors.join()})`, "ramp"), ramp.high);
    labels.forEach((label, code) => {
      const onclick = () => model.send({ kind: "category", code });
      legend.append(element("button", { dir: "auto", title: "select these", onclick },
        patch(colors.palette[code]), label));
    });
    sets.forEach(({ name, color }, set) => {
      const style = title ? "" : `color: ${color}`, mark = isDiamond(set) ? "◆" : "●";
      legend.append(element("span", { dir: "auto", style }, `${mark} ${name}`));
    });
  }

  const stop = redraw(model, ["_sets", "_colors", "_selected", "_labels"], () => {
    chosen = new Set(asArray(Uint32Array, model.get("_selected")));
    if (sets !== model.get("_sets")) view = ALL;
    if (sets !== model.get("_sets") || colors !== model.get("_colors")) {
      [sets, colors] = [model.get("_sets"), model.get("_colors")];
      points = sets.map(({ xy }) => asArray(Float32Array, xy));
      count = points.length ? points[0].length / 2 : 0;
      codes = colors.codes && asArray(Uint8Array, colors.codes);
      drawLegend();
    }
    paint();
  });
  const answered = ({ row, text }) => { if (row === hovered) tip.textContent = text; };
  model.on("msg:custom", answered);
  const watch = new ResizeObserver(([entry]) => {
    ({ width, height } = entry.contentRect);
    for (const layer of [canvas, overlay]) {
      layer.width = Math.round(width * devicePixelRatio);
      layer.height = Math.round(height * devicePixelRatio);
    }
    paint();
  });
  watch.observe(frame);
  return () => { stop(); watch.disconnect(); model.off("msg:custom", answered); };
}

export default { initialize, render };
