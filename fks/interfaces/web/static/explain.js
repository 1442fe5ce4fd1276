// Opens the meaning of a term beside it. Without this script the same link leads to the glossary.
const box = document.getElementById("explain");
let from = null;

document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a.explain");
  if (!link || !box?.showPopover || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  from = link.dataset.term;
  document.getElementById("explain-term").textContent = link.dataset.term;
  document.getElementById("explain-text").textContent = link.dataset.meaning;
  document.getElementById("explain-more").href = link.href;
  box.showPopover();
  const place = link.getBoundingClientRect();
  const left = Math.max(8, Math.min(place.left, document.documentElement.clientWidth - box.offsetWidth - 8));
  const below = place.bottom + 6 + box.offsetHeight < innerHeight;
  box.style.setProperty("left", `${left}px`);
  box.style.setProperty("top", `${below ? place.bottom + 6 : Math.max(8, place.top - 6 - box.offsetHeight)}px`);
  document.getElementById("explain-more").focus();
});

// The focus goes back to the term, which a later update of the page may have replaced.
box?.addEventListener("toggle", (event) => {
  if (event.newState !== "closed" || from === null) return;
  if (document.activeElement === document.body || box.contains(document.activeElement)) {
    document.querySelector(`a.explain[data-term="${CSS.escape(from)}"]`)?.focus();
  }
  from = null;
});
