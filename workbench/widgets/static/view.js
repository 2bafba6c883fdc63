// A figure drawn before its place has a width keeps a width of its own until the window says that it was resized.
export default { render({ el }) {
  let width = 0;
  const watch = new ResizeObserver(([entry]) => {
    if (entry.contentRect.width === width) return;
    width = entry.contentRect.width;
    window.dispatchEvent(new Event("resize"));
  });
  watch.observe(el);
  return () => watch.disconnect();
} };
