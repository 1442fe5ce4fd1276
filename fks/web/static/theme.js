// Sets the theme before the first paint: the reader's choice, else that of the system.
(() => {
  const chosen = /(?:^|; )fks_theme=(light|dark)/.exec(document.cookie)?.[1];
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => { document.documentElement.dataset.bsTheme = chosen ?? (dark.matches ? "dark" : "light"); };
  apply();
  if (!chosen) dark.addEventListener("change", apply);
})();
