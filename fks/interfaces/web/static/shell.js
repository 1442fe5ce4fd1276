// The choices of theme and zone (cookies, so that the server renders with them), and the menu on small screens.
const YEAR_S = 31536000;
const secure = location.protocol === "https:" ? "; Secure" : "";
const cookie = (name) => new RegExp(`(?:^|; )${name}=([^;]*)`).exec(document.cookie)?.[1] ?? "";
const keep = (name, value) => {
  document.cookie = `${name}=${encodeURIComponent(value)}; Path=/; SameSite=Strict; Max-Age=${value ? YEAR_S : 0}${secure}`;
};

const theme = document.getElementById("theme-choice");
theme.value = cookie("fks_theme");
theme.addEventListener("change", () => {
  keep("fks_theme", theme.value);
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.bsTheme = theme.value || (dark ? "dark" : "light");
  document.dispatchEvent(new Event("fks:theme"));
});

const zone = document.getElementById("zone-choice");
const own = Intl.DateTimeFormat().resolvedOptions().timeZone;
for (const name of new Set([own, document.body.dataset.zone])) {
  if (name && name !== "UTC") zone.add(new Option(name, name));
}
zone.value = document.body.dataset.zone;
zone.addEventListener("change", () => {
  keep("fks_zone", zone.value === "UTC" ? "" : zone.value);
  location.reload();
});

const menu = document.querySelector("details.menu");
const wide = matchMedia("(min-width: 62rem)");
const fit = () => { menu.open = wide.matches; };
fit();
wide.addEventListener("change", fit);
