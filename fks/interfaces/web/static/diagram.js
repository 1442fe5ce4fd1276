// Draws the one diagram of its frame, which has no origin: it reaches neither cookies nor the pages.
const theme = document.documentElement.dataset.theme;
const isDark = theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
window.mermaid.initialize({ startOnLoad: false, securityLevel: "strict", theme: isDark ? "dark" : "neutral", maxTextSize: 200000, maxEdges: 2000, flowchart: { useMaxWidth: false }, state: { useMaxWidth: false } });
document.body.style.background = isDark ? "#171e27" : "#ffffff";
window.mermaid.run({ querySelector: ".mermaid" });
