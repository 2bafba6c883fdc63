// What all parts of the views share. Python puts this in front of each module, since a module that comes over the
// kernel's connection cannot import another.

// Texts go onto the page as textContent or as children: whatever a text contains, it is shown and never run.
function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

// anywidget (0.11, runtime.ts) gives a module two seconds to start. After that it drops every message for the model, and
// the view stays as it was when it was made. A module that starts late takes the messages itself, as ipywidgets' own
// models do, and asks for the state that it has missed.
async function initialize({ model }) {
  const real = await model.widget_manager.get_model(model.get("_id"));
  const theirs = Object.getPrototypeOf(real), plain = Object.getPrototypeOf(theirs);
  // The model has bound its handler to the comm when it was made: another one has to be given to the comm.
  if (Object.hasOwn(theirs, "_handle_comm_msg")) real.comm?.on_msg(plain._handle_comm_msg.bind(real));
  model.send({ kind: "started", revision: model.get("_revision") });
}

// Call `draw` now and whenever one of the traits changes, at most once a frame. A page in the background has no frames.
function redraw(model, traits, draw) {
  let asked = false;
  const run = () => { asked = false; draw(); };
  const ask = () => {
    if (asked) return;
    asked = true;
    if (document.hidden) setTimeout(run); else requestAnimationFrame(run);
  };
  for (const trait of traits) model.on(`change:${trait}`, ask);
  draw();
  return () => traits.forEach((trait) => model.off(`change:${trait}`, ask));
}

// A part that has drawn something: the notice that the view has not started goes.
const started = (el) => el.classList.add("workbench-started");
