// Runs before the first paint: apply the theme that the reader chose earlier.
try {
  const theme = localStorage.getItem("counterpoise-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch (error) { /* a browser that keeps nothing */ }
