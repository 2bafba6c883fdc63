// Points of one or two models in a plane, without WebGL, of which a page has few contexts.
const MANY = 4000; // with more points, they are smaller
const MOST_RINGS = 100; // of selected points; with more, the others are only paler
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

// Return the pixels of a disc, each with the share that is covered.
function disc(radius, reach) {
  const cells = [];
  for (let y = -reach; y <= reach; y++)
    for (let x = -reach; x <= reach; x++) {
      const share = Math.min(1, radius + 0.5 - Math.hypot(x, y));
      if (share > 0) cells.push({ x, y, share });
    }
  return cells;
}

const asArray = (Kind, { buffer, byteOffset, byteLength }) =>
  new Kind(buffer.slice(byteOffset, byteOffset + byteLength));

function render({ model, el }) {
  const canvas = element("canvas",
    { className: "workbench-map", tabIndex: 0, role: "application", ariaRoleDescription: "map" });
  const overlay = element("canvas", { className: "workbench-over" });
  const tip = element("div", { className: "workbench-tip", hidden: true, role: "status" });
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

  function cleared(layer) {
    const context = layer.getContext("2d");
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    context.clearRect(0, 0, width, height);
    return context;
  }

  function paint() {
    if (!width || !height) return;
    const context = cleared(canvas);
    canvas.ariaLabel = `Map of ${count} texts, ${chosen.size} selected. Arrow keys go from point `
      + "to point, Enter selects.";
    if (chosen.size) drawPoints(context, (i) => !chosen.has(i), 0.22);
    drawPoints(context, (i) => !chosen.size || chosen.has(i), chosen.size ? 0.95 : 0.8);
    drawLabels(context);
    drawOverlay();
  }
  const draw = onceAFrame(paint);

  // A pixel takes the mean color of its points: many times faster than a path for each point.
  function drawPoints(context, has, opacity) {
    const w = canvas.width, h = canvas.height;
    const radius = (count > MANY ? 1.3 : 3.4) * devicePixelRatio, reach = Math.ceil(1.3 * radius);
    const sum = new Float32Array(4 * w * h), image = context.createImageData(w, h);
    const palette = rgba(codes ? colors.palette : sets.map((set) => set.color));
    const cells = disc(radius, reach);
    for (let i = 0; i < count; i++) {
      const [x, y] = pixel(points[0], i).map((place) => Math.round(place * devicePixelRatio));
      const color = codes ? 4 * codes[i] : 0;
      if (x < reach || y < reach || x >= w - reach || y >= h - reach || !has(i)) continue;
      for (const cell of cells) {
        const at = 4 * ((y + cell.y) * w + x + cell.x);
        for (let c = 0; c < 3; c++) sum[at + c] += cell.share * palette[color + c];
        sum[at + 3] += cell.share;
      }
    }
    for (let at = 0; at < sum.length; at += 4) {
      if (!sum[at + 3]) continue;
      for (let c = 0; c < 3; c++) image.data[at + c] = sum[at + c] / sum[at + 3];
      image.data[at + 3] = 255 * (1 - (1 - opacity) ** sum[at + 3]);
    }
    const layer = new OffscreenCanvas(w, h);
    layer.getContext("2d").putImageData(image, 0, 0);
    context.drawImage(layer, 0, 0, width, height);
  }

  // The nearer one looks, the more names; what would lie on that of a larger region is left out.
  function drawLabels(context) {
    const taken = [], most = 10 * view.scale ** 2;
    const theme = getComputedStyle(el), strokeStyle = theme.getPropertyValue("--paper");
    Object.assign(context, { font: "11px system-ui, sans-serif", textAlign: "center",
      lineJoin: "round", lineWidth: 3, strokeStyle, fillStyle: theme.color });
    for (const { text, at } of model.get("_labels").slice(0, most)) {
      const half = context.measureText(text).width / 2 + 4, [place, top] = pixel(at, 0);
      if (place < 0 || place > width || top < 0 || top > height) continue;
      const x = Math.min(Math.max(place, half), width - half), y = Math.max(top - 9, 40);
      if (taken.some(([u, v, w]) => Math.abs(u - x) < w + half && Math.abs(v - y) < 15)) continue;
      taken.push([x, y, half]);
      context.strokeText(text, x, y);
      context.fillText(text, x, y);
    }
  }

  // The lasso, a ring around the selected and around what the pointer is on, and a line from there
  // to where the text is for the other model.
  function drawOverlay() {
    const context = cleared(overlay), { color } = getComputedStyle(el);
    Object.assign(context, { strokeStyle: color, lineWidth: 1.5, fillStyle: "#8882" });
    const rows = chosen.size > MOST_RINGS ? [] : [...chosen];
    for (const i of hovered < 0 ? rows : [...rows, hovered]) {
      const ring = new Path2D(), [x, y] = pixel(points[0], i);
      ring.arc(x, y, i === hovered ? 8 : 6, 0, 7);
      if (points[1]) {
        const [u, v] = pixel(points[1], i), far = Math.hypot(u - x, v - y) || 1;
        ring.moveTo(x + 7 * (u - x) / far, y + 7 * (v - y) / far);
        ring.lineTo(u, v);
        context.fillStyle = sets[1].color;
        context.fillRect(u - 4, v - 4, 8, 8);
      }
      context.stroke(ring);
    }
    const lasso = outline(drag?.path ?? []);
    context.fillStyle = "#8882";
    context.fill(lasso);
    context.stroke(lasso);
  }

  function outline(path) {
    const shape = new Path2D();
    for (const corner of path) shape.lineTo(...corner);
    shape.closePath();
    return shape;
  }

  function inside(path) {
    const rows = [], lasso = outline(path);
    const context = new OffscreenCanvas(1, 1).getContext("2d");
    for (let i = 0; i < count; i++)
      if (context.isPointInPath(lasso, ...pixel(points[0], i), "evenodd")) rows.push(i);
    return rows;
  }

  // Return the row of the point with the least distance below `best`, -1 if there is none.
  function nearest([px, py], best = 144, distance = (x, y) => x * x + y * y) {
    let row = -1;
    for (let i = 0; i < count; i++) {
      const [x, y] = pixel(points[0], i), far = distance(x - px, y - py);
      if (far < best) [best, row] = [far, i];
    }
    return row;
  }

  // The page shows at once what it has asked Python for.
  function choose(rows) {
    chosen = new Set(rows);
    model.send({ kind: "select" }, undefined, [Uint32Array.from(rows).buffer]);
    tell(el, { rows: [...rows], count });
    draw();
  }

  const moveView = (change) => { view = { ...view, ...change }; draw(); };
  const pan = (x, y) => moveView({ x: view.x + x / view.scale, y: view.y + y / view.scale });
  function zoom(factor, [x, y] = [0.5, 0.5]) {
    const scale = Math.min(500, Math.max(0.5, view.scale * factor));
    const moved = 1 / view.scale - 1 / scale; // what is at that place stays there
    moveView({ scale, x: view.x + x * moved, y: view.y + y * moved });
  }

  function say(text, [x, y]) {
    tip.textContent = text;
    tip.style.cssText = x < width / 2 ? `left:${x + 14}px` : `right:${width - x + 14}px`;
    tip.style[y < height / 2 ? "top" : "bottom"] = `${Math.min(y, height - y) + 14}px`;
    tip.hidden = false;
  }

  function hover(i) {
    if (i === hovered) return;
    hovered = i;
    tip.hidden = true;
    drawOverlay();
    if (i < 0) return;
    if (!colors.texts) model.send({ kind: "tip", row: i });
    if (colors.texts || !isAlone(model, el)) say(colors.texts?.[i] ?? "…", pixel(points[0], i));
  }
  const hoverSoon = onceAFrame(() => pointer && !drag && hover(nearest(pointer)));

  // Go to the next point to one side: the nearest, and what lies straight ahead before the rest.
  function step(dx, dy) {
    const from = hovered < 0 ? [width / 2, height / 2] : pixel(points[0], hovered);
    const next = nearest(from, Infinity, (x, y) => {
      const ahead = x * dx + y * dy;
      return ahead > 0 ? ahead + 3 * Math.abs(x * dy - y * dx) : Infinity;
    });
    if (next >= 0) hover(next);
  }

  overlay.onpointerdown = (event) => {
    if (event.button) return;
    pointer = [event.offsetX, event.offsetY];
    drag = event.shiftKey ? {} : { path: [pointer] };
    overlay.setPointerCapture(event.pointerId);
    canvas.focus({ preventScroll: true });
    tip.hidden = true;
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
  overlay.onpointerup = ({ pointerType }) => {
    const path = drag?.path;
    drag = null;
    drawOverlay();
    if (!path) return;
    const [[startX, startY]] = path, hit = nearest(pointer, pointerType === "touch" ? 576 : 144);
    const isLasso = path.some(([x, y]) => Math.hypot(x - startX, y - startY) > 4);
    const rows = isLasso ? inside(path) : hit < 0 ? [] : [hit];
    choose(rows);
    if (isLasso && !rows.length) say("No point is inside this lasso.", pointer);
  };
  overlay.onpointercancel = () => { drag = null; drawOverlay(); };
  overlay.onpointerleave = () => { pointer = null; hover(-1); };
  overlay.onwheel = (event) => {
    if (!event.ctrlKey && !event.metaKey) return; // the page scrolls
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 400), toPlace([event.offsetX, event.offsetY]));
  };
  let pinch = null; // how far two fingers are apart, and their middle
  overlay.addEventListener("touchmove", (event) => {
    if (event.touches.length !== 2) return;
    event.preventDefault();
    const box = overlay.getBoundingClientRect(), [a, b] = event.touches;
    const middle = [(a.clientX + b.clientX) / 2 - box.left, (a.clientY + b.clientY) / 2 - box.top];
    const far = Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY), place = toPlace(middle);
    drag = null;
    if (pinch) {
      zoom(far / pinch.far, place);
      pan(pinch.place[0] - place[0], pinch.place[1] - place[1]);
    }
    pinch = { far, place };
  }, { passive: false });
  overlay.ontouchend = () => { pinch = null; };

  const arrow = (x, y) => ({ shiftKey }) => shiftKey ? pan(0.1 * x, -0.1 * y) : step(x, y);
  const enter = ({ shiftKey }) => hovered >= 0
    && choose(new Set([...shiftKey ? chosen : [], hovered]));
  const keys = {
    Escape: () => { hover(-1); choose([]); }, 0: () => moveView(ALL),
    "+": () => zoom(1.3), "-": () => zoom(1 / 1.3), Enter: enter, " ": enter,
    ArrowLeft: arrow(-1, 0), ArrowRight: arrow(1, 0), ArrowUp: arrow(0, -1), ArrowDown: arrow(0, 1),
  };
  canvas.onblur = () => hover(-1);
  canvas.onkeydown = (event) => {
    if (!Object.hasOwn(keys, event.key)) return;
    keys[event.key](event);
    event.preventDefault();
    event.stopPropagation();
  };
  for (const [textContent, title, key] of [
    ["+", "zoom in (+); Ctrl and the wheel zoom, Shift and drag moves the map", "+"],
    ["−", "zoom out (-)", "-"],
    ["all", "show all points (0)", "0"],
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
      const onclick = () => choose([...codes.keys()].filter((i) => codes[i] === code));
      legend.append(element("button", { dir: "auto", title: "select these", onclick },
        patch(colors.palette[code]), label));
    });
    sets.forEach(({ name, color }, set) => {
      const style = set || !title ? `color: ${color}` : "", mark = set ? "■" : "●";
      legend.append(element("span", { dir: "auto" }, element("span", { style }, mark), ` ${name}`,
        set ? ", at a click" : ""));
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
  frame.ontransitionend = draw; // the ink has changed with the theme
  const stopHeeding = heed(model, el, (told) => {
    if (told.count === count) chosen = new Set(told.rows);
    draw();
  });
  const watch = new ResizeObserver(([entry]) => {
    ({ width, height } = entry.contentRect);
    for (const layer of [canvas, overlay]) {
      layer.width = Math.round(width * devicePixelRatio);
      layer.height = Math.round(height * devicePixelRatio);
    }
    paint();
  });
  watch.observe(frame);
  return () => { stop(); stopHeeding(); watch.disconnect(); model.off("msg:custom", answered); };
}

export default { initialize, render };
