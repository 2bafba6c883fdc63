// What all modules share; Python puts it in front of each, since none can import another.

// Texts go onto the page as textContent or as children: they are shown and never run.
function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

// A name with `data-file`, a path from the notebook's folder, opens this file in JupyterLab.
if (!globalThis.workbenchOpens) {
  globalThis.workbenchOpens = true;
  // A letter that is typed in a view is no command of the notebook, where x cuts the cell.
  document.body.addEventListener("keydown", (event) => {
    const isCommand = event.ctrlKey || event.metaKey || event.altKey;
    if (!isCommand && event.target.closest(".workbench")) event.stopPropagation();
  });
  document.addEventListener("click", (event) => {
    const name = event.target.closest("[data-file]"), file = name?.dataset.file;
    if (!file) return;
    event.stopPropagation();
    const [, notebook = ""] = decodeURIComponent(location.pathname).split("/tree/");
    const path = [...notebook.split("/").slice(0, -1), file].join("/");
    // What JupyterLab's command linker looks for, in an output that it trusts.
    const node = element("a");
    node.dataset.commandlinkerCommand = "docmanager:open";
    node.dataset.commandlinkerArgs = JSON.stringify({ path });
    name.after(node);
    node.click();
    node.remove();
  }, true);
}

// anywidget (0.11) gives a module two seconds to start, and then drops every message for its model.
// A module that starts late takes the messages itself and asks for the state that it has missed.
async function initialize({ model }) {
  const real = await model.widget_manager.get_model(model.get("_id"));
  const theirs = Object.getPrototypeOf(real), plain = Object.getPrototypeOf(theirs);
  // The comm keeps the handler that was bound when the model was made, so it needs another.
  if (Object.hasOwn(theirs, "_handle_comm_msg"))
    real.comm?.on_msg(plain._handle_comm_msg.bind(real));
  keep(real.widget_manager);
  model.send({ kind: "started", revision: model.get("_revision") });
}

// JupyterLab keeps no widgets in a notebook unless a setting says so: keep those that it shows.
function keep(manager) {
  const { context } = manager, notebook = context?.model;
  if (!notebook?.setMetadata || manager.workbenchKeeps) return;
  manager.workbenchKeeps = true;
  const mime = "application/vnd.jupyter.widget-", stored = `${mime}state+json`;
  let known = notebook.getMetadata("widgets")?.[stored]?.state;
  context.saveState.connect((_, stage) => {
    if (stage !== "started") return;
    const live = manager.get_state_sync({ drop_defaults: true }), kept = {};
    known = { ...known, ...live.state }; // those without a kernel are not live
    const add = (id) => {
      if (!known[id] || kept[id]) return;
      kept[id] = known[id];
      const parts = JSON.stringify(known[id].state).matchAll(/"(?:IPY_MODEL_)?([0-9a-f]{32})"/g);
      for (const [, part] of parts) add(part);
    };
    for (const { outputs } of notebook.cells)
      for (let i = 0; i < (outputs?.length ?? 0); i++)
        add(outputs.get(i).data[`${mime}view+json`]?.model_id);
    known = kept;
    notebook.setMetadata("widgets", { [stored]: { ...live, state: kept } });
  });
}

// Without a kernel, parts tell each other what is selected.
const isAlone = (model, el) =>
  model.alone || el.classList.contains("jupyter-widgets-disconnected");
const tell = (el, detail) =>
  el.dispatchEvent(new CustomEvent("workbench-select", { bubbles: true, detail }));
function heed(model, el, take) {
  const view = (part) => part.parentElement?.closest(".workbench");
  const told = ({ target, detail }) =>
    target !== el && view(target) === view(el) && isAlone(model, el) && take(detail);
  document.addEventListener("workbench-select", told);
  return () => document.removeEventListener("workbench-select", told);
}

// Return a function that calls `draw` soon, at most once a frame.
function onceAFrame(draw) {
  let asked = false;
  const run = () => { asked = false; draw(); };
  return () => {
    if (asked) return;
    asked = true;
    if (document.hidden) setTimeout(run); // a page in the background has no frames
    else requestAnimationFrame(run);
  };
}

// Call `draw` now and when one of the traits changes; return a function that ends it.
function redraw(model, traits, draw) {
  const events = traits.map((trait) => `change:${trait}`).join(" "), ask = onceAFrame(draw);
  model.on(events, ask);
  draw();
  return () => model.off(events, ask);
}
