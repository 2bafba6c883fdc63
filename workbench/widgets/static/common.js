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
  model.send({ kind: "started", revision: model.get("_revision") });
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
