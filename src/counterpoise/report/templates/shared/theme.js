// Before the first paint: what the reader chose the last time, if anything.
try {
  const theme = localStorage.getItem("counterpoise-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch (error) { /* a browser that keeps nothing */ }
