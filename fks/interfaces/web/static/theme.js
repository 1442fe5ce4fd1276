// Sets the theme before the first paint: the reader's choice, else that of the system.
(() => {
  const chosen = /(?:^|; )fks_theme=(light|dark)/.exec(document.cookie)?.[1];
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => { document.documentElement.dataset.bsTheme = chosen ?? (dark.matches ? "dark" : "light"); };
  apply();
  document.documentElement.dataset.loading = ""; // a small screen shows no open menu, which shell.js closes then
  document.addEventListener("DOMContentLoaded", () => { delete document.documentElement.dataset.loading; });
  dark.addEventListener("change", () => {
    if (/(?:^|; )fks_theme=(light|dark)/.test(document.cookie)) return;
    document.documentElement.dataset.bsTheme = dark.matches ? "dark" : "light";
    document.dispatchEvent(new Event("fks:theme"));
  });
})();
