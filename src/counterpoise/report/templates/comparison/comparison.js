// Controls of a comparison: two groups, effects of one group, unit of cost, one class.
report.add(async () => {
  "use strict";
  const comparison = await report.data("comparison");
  const by = (id) => document.getElementById(id);
  const costs = by("comparison-costs") && await report.data("comparison-costs");
  const several = by("recall-from") !== null;
  const signed = (value) => {
    const digits = Math.abs(value).toFixed(3);
    return (Number(digits) === 0 ? "" : value > 0 ? "+" : "−") + digits;
  };
  const plural = (count) => `${count} ${count === 1 ? comparison.unit : comparison.units}`;
  const short = (name, limit) => {
    const letters = [...name], half = Math.floor((limit - 1) / 2);
    if (letters.length <= limit) return name;
    return `${letters.slice(0, limit - 1 - half).join("")}…${letters.slice(-half).join("")}`;
  };

  function recall() {
    const from = Number(by("recall-from").value), to = Number(by("recall-to").value);
    const before = comparison.recall[from], after = comparison.recall[to];
    const kinds = { gain: [], loss: [], same: [] };
    comparison.classes.forEach((_, number) => {
      if (before[number] === null || after[number] === null) return;
      const change = after[number] - before[number];
      kinds[change > 0 ? "gain" : change < 0 ? "loss" : "same"].push(number);
    });
    const about = (number) => [
      comparison.classes[number], comparison.train[number], comparison.test[number], before[number], after[number],
      after[number] - before[number], number,
    ];
    const points = (numbers, values) => ({
      x: numbers.map((number) => comparison.place[number]), y: numbers.map((number) => values[number]),
      customdata: numbers.map(about),
    });
    const lines = (numbers) => ({
      x: numbers.flatMap((number) => [comparison.place[number], comparison.place[number], null]),
      y: numbers.flatMap((number) => [before[number], after[number], null]),
    });
    const all = [...kinds.gain, ...kinds.loss, ...kinds.same], plot = report.plots.recall;
    const name = (group) => short(comparison.groups[group], 26);
    const news = [
      lines(kinds.gain), lines(kinds.loss), { ...points(all, before), name: name(from) },
      { ...points(kinds.gain, after), name: `${name(to)}: higher` }, { ...points(kinds.loss, after), name: "lower" },
      { ...points(kinds.same, after), name: "unchanged" },
    ];
    plot.data.forEach((trace, number) => Object.assign(trace, news[number]));
    const mean = all.reduce((sum, number) => sum + after[number] - before[number], 0) / Math.max(all.length, 1);
    say("recall", "recall-from-status", `From ${comparison.groups[from]} to ${comparison.groups[to]}: recall rises for ` +
      `${plural(kinds.gain.length)}, falls for ${kinds.loss.length} and is unchanged for ${kinds.same.length}; ` +
      `${signed(mean)} on average.`);
    return report.draw("recall");
  }

  function effects() {
    const group = Number(by("effect-of").value);
    const [change, low, high] = [comparison.difference[group], comparison.low[group], comparison.high[group]];
    const shown = comparison.classes.map((_, number) => number).filter((number) => change[number] !== null);
    if (by("effect-order").value === "effect") shown.sort((a, b) => change[b] - change[a] || a - b);
    const kind = (number) => (low[number] > 0 ? 0 : high[number] < 0 ? 1 : 2);
    const plot = report.plots.effect, axis = report.plots["effect-axis"], narrow = plot.canvas.clientWidth < 560;
    const found = [[], [], []];
    const sections = by("effect-order").value === "effect" ? [] : headings(shown), place = [];
    shown.forEach((number, row) => {
      place.push(row + sections.filter((section) => section.first <= row).length);
      found[kind(number)].push([number, place[row]]);
    });
    const length = shown.length + sections.length;
    plot.data.slice(0, 3).forEach((trace, which) => {
      const rows = found[which];
      trace.x = rows.map(([number]) => change[number]);
      trace.y = rows.map(([, row]) => row);
      trace.error_x.array = rows.map(([number]) => (high[number] ?? change[number]) - change[number]);
      trace.error_x.arrayminus = rows.map(([number]) => change[number] - (low[number] ?? change[number]));
      trace.customdata = rows.map(([number]) => [
        comparison.classes[number], comparison.train[number], comparison.test[number],
        low[number] === null ? "too few test examples for an interval" :
          `${signed(low[number])} to ${signed(high[number])}`, number,
      ]);
      trace.marker.symbol = rows.map(([number]) => (low[number] === null ? "circle-open" : "circle"));
    });
    const counts = shown.map((number) => comparison.train[number].toLocaleString("en"));
    const digits = Math.max(0, ...counts.map((count) => count.length));
    const ends = shown.flatMap((number) => [low[number] ?? change[number], high[number] ?? change[number]]);
    const [least, most] = ends.reduce(([a, b], end) => [Math.min(a, end), Math.max(b, end)], [-0.01, 0.01]);
    const room = 0.04 * (most - least), range = [least - room, most + room];
    const margin = { l: narrow ? 112 : 242, r: narrow ? 50 : 60, t: 8, b: 8 };
    const limit = narrow ? 13 : 30;
    Object.assign(plot.layout, { height: 22 * length + 20, margin, shapes: sections.map((section, before) => ({
      type: "line", xref: "paper", x0: 0, x1: 1, y0: section.first + before + 0.45, y1: section.first + before + 0.45,
      line: { color: "var(--faint)", width: 1, dash: "dot" },
      label: { text: section.name, textposition: "start", yanchor: "bottom", font: { color: "var(--muted)", size: 11.5 } },
    })) });
    Object.assign(plot.layout.xaxis, { range });
    Object.assign(plot.layout.yaxis, {
      range: [length - 0.4, -0.6], tickvals: place,
      ticktext: shown.map((number) => short(comparison.classes[number], limit)),
    });
    Object.assign(plot.data[3], {
      x: shown.map(() => range[1]), y: place,
      text: counts.map((count) => count.padStart(digits, "\u2007")),
    });
    axis.layout.margin = { ...margin, t: 28, b: 0 };
    Object.assign(axis.layout.xaxis, { range });
    say("effect", "effect-of-status", `${comparison.groups[group]} relative to ${comparison.groups[comparison.reference]}: interval above 0 ` +
      `for ${plural(found[0].length)}, below 0 for ${found[1].length}, including 0 or unknown for ${found[2].length}.`);
    return Promise.all([report.draw("effect"), report.draw("effect-axis")]);
  }

  // Headings of head, medium and tail in rows sorted by training count.
  function headings(shown) {
    const names = shown.map((number) => comparison.bucket[number]);
    return ["head", "medium", "tail"].filter((name) => names.includes(name)).map((name) => ({
      first: names.indexOf(name), name: `${name}, ${plural(names.filter((each) => each === name).length)}`,
    }));
  }

  function cost() {
    const { plot, text, more } = costs[by("cost-by").value];
    Object.assign(report.plots.cost, plot);
    say("cost", "cost-by-status", text, more);
    return report.draw("cost");
  }

  function say(plot, id, text, more = "") {
    by(id).textContent = text;
    report.plots[plot].canvas.setAttribute("aria-label", text + more);
  }

  function cell(tag, text, numeric) {
    const made = document.createElement(tag);
    made.textContent = text;
    if (numeric) made.className = "number";
    return made;
  }

  function score(value) {
    const made = cell("td", value === null ? "–" : value.toFixed(3));
    if (value === null) return made;
    const bar = document.createElement("span"), filled = document.createElement("span");
    bar.className = "bar";
    filled.style.width = `${100 * value}%`;
    bar.append(filled);
    made.append(bar);
    return made;
  }

  function lookUp(number) {
    const rows = comparison.groups.map((name, group) => {
      const row = document.createElement("tr"), head = cell("th", name);
      head.scope = "row";
      const [change, low, high] = ["difference", "low", "high"].map((key) => comparison[key][group][number]);
      const known = change !== null && group !== comparison.reference;
      row.append(head, score(comparison.recall[group][number]), score(comparison.f1[group][number]));
      row.append(cell("td", known ? signed(change) : "–", true));
      row.append(cell("td", known && low !== null ? `${signed(low)} to ${signed(high)}` : "–", true));
      return row;
    });
    by("class-table").tBodies[0].replaceChildren(...rows);
    const [train, test] = [comparison.train[number], comparison.test[number]].map((count) => count.toLocaleString("en"));
    by("class-status").textContent = `${comparison.classes[number]}: ${train} training and ${test} test examples, ` +
      `${comparison.bucket[number]}.` + (comparison.test[number] ? "" : " Without test examples it cannot be evaluated.");
    for (const button of by("class-found").children) {
      button.setAttribute("aria-pressed", String(button.dataset.number === String(number)));
    }
  }

  function search(chosen) {
    const wanted = by("class-search").value.trim().toLowerCase(), most = 12;
    const found = comparison.classes.map((name, number) => [name.toLowerCase(), number])
      .filter(([name]) => name.includes(wanted))
      .sort((a, b) => (b[0] === wanted) - (a[0] === wanted) || a[1] - b[1]).map(([, number]) => number);
    by("class-found").replaceChildren(...found.slice(0, most).map((number) => {
      const button = cell("button", comparison.classes[number]);
      button.type = "button";
      button.dataset.number = number;
      button.addEventListener("click", () => lookUp(number));
      return button;
    }), ...(found.length > most ? [cell("span", `and ${found.length - most} more`)] : []));
    if (found.length) lookUp(chosen ?? found[0]);
    else by("class-status").textContent = `No ${comparison.unit} matches.`;
  }

  function open(event) {
    const number = event.points[0]?.customdata?.at(-1);
    if (number === undefined) return;
    by("class-search").value = comparison.classes[number];
    search(number);
    by("classes").scrollIntoView();
  }

  by("class-search").addEventListener("input", () => search());
  search();
  if (several) {
    for (const id of ["recall-from", "recall-to"]) by(id).addEventListener("change", recall);
    for (const id of ["effect-of", "effect-order"]) by(id).addEventListener("change", effects);
    by("cost-by")?.addEventListener("change", cost);
    await recall();
    await effects();
    if (costs) await cost();
    for (const id of ["recall", "effect"]) report.plots[id].canvas.on("plotly_click", open);
    let width = by("effect").clientWidth;
    new ResizeObserver(() => {
      if ((width < 560) !== (by("effect").clientWidth < 560)) effects();
      width = by("effect").clientWidth;
    }).observe(by("effect"));
  }
});
