// Shared by all reports: figures in the colours of the page, sortable tables, and the theme.
const report = (() => {
  "use strict";
  const root = document.documentElement;
  const plots = {};
  const blocks = {};
  const colours = new Map();
  const tasks = [];  // tasks of the page's own script
  const probe = document.createElement("span");
  probe.hidden = true;
  document.body.append(probe);

  async function unpack(element) {
    const bytes = Uint8Array.from(atob(element.textContent), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  function data(id) {
    blocks[id] ??= unpack(document.getElementById(id)).then(JSON.parse);
    return blocks[id];
  }

  // Resolve a named colour: plotly does not understand light-dark() and color-mix().
  function colour(name) {
    if (!colours.has(name)) {
      probe.style.color = name;
      let value = getComputedStyle(probe).color;
      const mixed = value.match(/^color\(srgb ([\d.e-]+) ([\d.e-]+) ([\d.e-]+)(?: \/ ([\d.e-]+))?\)$/);
      if (mixed) {
        const [red, green, blue] = mixed.slice(1, 4).map((share) => Math.round(255 * share));
        value = `rgba(${red}, ${green}, ${blue}, ${mixed[4] ?? 1})`;
      }
      colours.set(name, value);
    }
    return colours.get(name);
  }

  // Plotly interprets HTML and $formulas$ in strings. Escape names and texts so that they are shown literally.
  function escape(text) {
    return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/\$/g, "&#36;").replace(/\r?\n/g, "<br>");
  }

  function prepared(value, key) {
    if (typeof value === "string") {
      if (value.startsWith("var(--")) return colour(value);
      return key === "hovertemplate" || key === "texttemplate" ? value : escape(value);
    }
    if (Array.isArray(value)) return value.map((each) => prepared(each, key));
    if (value === null || typeof value !== "object" || "bdata" in value) return value;
    return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, prepared(each, name)]));
  }

  function template() {
    const ink = colour("var(--ink)"), muted = colour("var(--muted)"), grid = colour("var(--grid)");
    const axis = {
      gridcolor: grid, linecolor: muted, zeroline: false, ticks: "", automargin: true, tickcolor: muted,
      tickfont: { color: muted, size: 11.5 }, title: { font: { color: muted, size: 12 }, standoff: 8 },
    };
    return {
      layout: {
        font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: ink },
        paper_bgcolor: "rgba(0, 0, 0, 0)", plot_bgcolor: "rgba(0, 0, 0, 0)",
        colorway: [1, 2, 3, 4, 5, 6].map((number) => colour(`var(--c${number})`)),
        xaxis: { ...axis, ticklabelstandoff: 4 }, yaxis: { ...axis, ticklabelstandoff: 2 }, hovermode: "closest",
        hoverlabel: {
          bgcolor: colour("var(--raised)"), bordercolor: colour("var(--rule)"), align: "left",
          font: { color: ink, family: getComputedStyle(document.body).fontFamily, size: 12.5 },
        },
        legend: { itemsizing: "constant", orientation: "h", x: 0, xanchor: "left", y: 1, yanchor: "bottom", font: { color: ink, size: 12 } },
        title: { font: { size: 13, color: ink }, x: 0, xanchor: "left" },
        annotationdefaults: { font: { color: muted, size: 11.5 } },
        dragmode: "zoom", uniformtext: { mode: false },
      },
    };
  }

  // Name the buttons that are shown: the default toolbar also offers to upload the figure to plotly's servers.
  const zoomButtons = ["zoom2d", "pan2d", "resetScale2d"];
  const config = {
    displaylogo: false, responsive: true, doubleClick: "reset", showSendToCloud: false, plotlyServerURL: "",
  };

  // Draw synchronously if plotly is loaded, because printing lays out the page immediately afterwards.
  function draw(id) {
    return window.Plotly ? paint(id) : loaded.then(() => paint(id));
  }

  function paint(id) {
    const plot = plots[id];
    const layout = { ...prepared(plot.layout), template: template(), autosize: true };
    const named = plot.data.filter((trace) => trace.showlegend !== false).length;
    const legend = plot.layout.showlegend ?? named > 1;
    layout.margin ??= { l: 8, r: 12, t: legend ? 34 : 12, b: 8 };
    plot.canvas.style.height = `${plot.layout.height ?? 380}px`;
    const still = plot.layout.xaxis?.fixedrange && plot.layout.yaxis?.fixedrange;
    const own = {
      toImageButtonOptions: { filename: id, scale: 2 },
      modeBarButtons: still ? [["toImage"]] : [["toImage"], zoomButtons],
    };
    return Plotly.react(plot.canvas, prepared(plot.data), layout, { ...config, ...own });
  }

  function drawAll() {
    colours.clear();
    return Promise.all(Object.keys(plots).filter((id) => plots[id].data.length).map(draw));
  }

  // Figures in view change their colours at once; the others follow one by one, so that the page stays responsive.
  async function recolour() {
    colours.clear();
    const drawn = Object.keys(plots).filter((id) => plots[id].data.length);
    const seen = (id) => {
      const { top, bottom, width } = plots[id].canvas.getBoundingClientRect();
      return width > 0 && bottom > 0 && top < innerHeight;
    };
    drawn.filter(seen).forEach(draw);
    for (const id of drawn.filter((id) => !seen(id))) {
      await new Promise((resolve) => setTimeout(resolve));
      draw(id);
    }
  }

  function dark() {
    return (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  }

  function theme() {
    const button = document.getElementById("theme");
    const show = () => button.setAttribute("aria-pressed", String(dark()));
    button.addEventListener("click", () => {
      root.dataset.theme = dark() ? "light" : "dark";
      try { localStorage.setItem("counterpoise-theme", root.dataset.theme); } catch (error) { /* nothing is kept */ }
      show();
      recolour();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { show(); recolour(); });
    matchMedia("print").addEventListener("change", drawAll);
    show();
  }

  function key(row, column) {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
  }

  function sort(table) {
    const buttons = [...table.querySelectorAll("thead button")];
    buttons.forEach((button, column) => button.addEventListener("click", () => {
      const head = button.closest("th"), numeric = head.classList.contains("number");
      const before = head.getAttribute("aria-sort");
      const descending = before ? before === "ascending" : numeric;
      buttons.forEach((each) => each.closest("th").removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows], sign = descending ? -1 : 1;
      rows.sort((a, b) => {
        if (!numeric) return sign * a.cells[column].textContent.localeCompare(b.cells[column].textContent);
        const left = key(a, column), right = key(b, column);
        if (left === null || right === null) return (left === null) - (right === null);
        return sign * (left - right);
      });
      table.tBodies[0].append(...rows);
    }));
  }

  function contents() {
    const links = new Map([...document.querySelectorAll(".contents a")].map((link) => [link.hash.slice(1), link]));
    const seen = new Set();
    const watcher = new IntersectionObserver((entries) => {
      for (const entry of entries) seen[entry.isIntersecting ? "add" : "delete"](entry.target.id);
      const first = [...links.keys()].find((id) => seen.has(id));
      for (const [id, link] of links) {
        if (id === first) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
      }
    }, { rootMargin: "-15% 0px -55% 0px" });
    for (const id of links.keys()) watcher.observe(document.getElementById(id));
  }

  async function load() {
    const code = document.createElement("script");
    code.textContent = await unpack(document.getElementById("plotly"));
    document.head.append(code);
  }

  async function start() {
    theme();
    contents();
    document.querySelectorAll("table.sortable").forEach(sort);
    for (const element of document.querySelectorAll("figure.plot")) {
      const plot = JSON.parse(element.querySelector("script").textContent);
      plots[element.id] = { ...plot, canvas: element.querySelector(".canvas") };
    }
    for (const id of Object.keys(plots)) {
      if (plots[id].data.length) await draw(id);
      await new Promise((resolve) => setTimeout(resolve));  // keep the page responsive
    }
    await Promise.all(tasks);
    root.dataset.drawn = "true";
  }

  const loaded = load();
  start();
  return { plots, draw, data, sort, add: (task) => tasks.push(task()) };
})();
