// Draws the diagram again in the colours that the reader chose: its frame sees no event of this page.
document.addEventListener("fks:theme", () => {
  const frame = document.querySelector("iframe.diagram");
  if (frame) frame.src = frame.getAttribute("src");
});
