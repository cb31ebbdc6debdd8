// Controls of a run's report. Each panel draws from the data block beside it.
(() => {
  "use strict";
  const element = (id) => document.getElementById(id);
  const made = (tag, text, name) => {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    if (name) node.className = name;
    return node;
  };
  const fixed = (value, digits = 3) => value === null || Number.isNaN(value) ? "–" : value.toFixed(digits);
  const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;
  const whole = (share) => share < 0.005 ? "<1" : (100 * share).toFixed(0);
  // Shortened in the middle, because names often differ at their end.
  const clip = (name, limit = 24) => name.length <= limit ? name
    : `${name.slice(0, Math.ceil(limit / 2) - 1)}…${name.slice(-Math.floor(limit / 2))}`;
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const panel = (id, task) => { if (element(id)) report.add(task); };

  // Scores against training counts, with the mean of similar counts and an optional marked class.
  panel("recall-plot", async () => {
    const scores = await report.data("recall-data");
    const { data: [points, means, mark], layout, canvas } = report.plots["recall-plot"];
    const described = canvas.getAttribute("aria-label");
    const decoded = points.x.bdata ? null : points.x;
    const xs = decoded ?? floats(points.x.bdata);
    function show() {
      const measure = element("recall-measure").value, values = scores[measure];
      points.y = values;
      const name = element("recall-measure").selectedOptions[0].text;
      layout.yaxis.title = { text: name };
      canvas.setAttribute("aria-label", described.replace("Recall", () => name[0].toUpperCase() + name.slice(1)));
      const logs = xs.map(Math.log10), low = Math.min(...logs), high = Math.max(...logs) + 1e-9;
      const count = Math.max(3, Math.round(2.5 * (high - low))), bins = Array.from({ length: count }, () => []);
      logs.forEach((x, i) => {
        if (values[i] !== null) bins[Math.floor(count * (x - low) / (high - low))].push([x, values[i]]);
      });
      const full = bins.filter((bin) => bin.length);
      means.x = full.map((bin) => 10 ** (sum(bin.map(([x]) => x)) / bin.length));
      means.y = full.map((bin) => sum(bin.map(([, y]) => y)) / bin.length);
      const wanted = element("recall-find").value, message = element("recall-message");
      const found = scores.label.indexOf(wanted);
      const similar = scores.label.filter((label) => label.toLowerCase().includes(wanted.toLowerCase())).slice(0, 3);
      message.textContent = found >= 0 || !wanted ? "" : similar.length ? `Names with “${wanted}”: ${similar.join(", ")}`
        : `No ${message.dataset.noun} with test examples has this name.`;
      mark.x = found < 0 ? [] : [xs[found]];
      mark.y = found < 0 ? [] : [values[found]];
      mark.text = found < 0 ? [] : [scores.label[found]];
      return report.draw("recall-plot");
    }
    element("recall-measure").addEventListener("change", show);
    element("recall-find").addEventListener("input", show);
    await show();
  });

  function floats(base64) {
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    return [...new Float64Array(bytes.buffer)];
  }

  // Confusion matrix of chosen classes.
  panel("confusion-plot", async () => {
    const all = await report.data("confusion-data"), size = all.labels.length, nothing = size;
    const errors = new Array(size).fill(0), byRow = new Map();
    all.rows.forEach((row, k) => {
      const column = all.columns[k];
      byRow.set(row * (size + 1) + column, all.counts[k]);
      if (row !== column && column < size) {
        errors[row] += all.counts[k];
        errors[column] += all.counts[k];
      }
    });
    const cell = (row, column) => byRow.get(row * (size + 1) + column) ?? 0;
    const others = size + 1;  // column of predictions of classes that are not shown
    const select = { size: element("confusion-size"), centre: element("confusion-centre"),
      order: element("confusion-order"), colour: element("confusion-colour") };
    const by = {
      train: (a, b) => all.train[b] - all.train[a] || a - b, errors: (a, b) => errors[b] - errors[a] || a - b,
      name: (a, b) => all.labels[a].localeCompare(all.labels[b]),
    };

    function chosen() {
      const limit = Number(select.size?.value ?? size), everyone = all.labels.map((_, c) => c);
      if (select.centre.value === "") {
        const busy = limit < size ? everyone.filter((c) => errors[c]) : everyone;
        return (busy.length ? busy : everyone).sort(by.errors).slice(0, limit);
      }
      const centre = Number(select.centre.value), tie = (c) => cell(centre, c) + cell(c, centre);
      return [centre, ...everyone.filter((c) => c !== centre && tie(c)).sort((a, b) => tie(b) - tie(a))].slice(0, limit);
    }

    function show() {
      const classes = chosen().sort(by[select.order.value]), share = select.colour.value === "share";
      const count = classes.length;
      const columns = all.multi ? [...classes, nothing] : count < size ? [...classes, others] : classes;
      const name = (c) => c === nothing ? "none" : c === others ? "other classes" : all.labels[c];
      const shown = (row, column) => column < others ? cell(row, column)
        : all.support[row] - sum(classes.map((each) => cell(row, each)));
      const grids = { right: [], wrong: [] }, texts = { right: [], wrong: [] }, hover = [];
      let most = 0;
      for (const row of classes) {
        const line = { right: [], wrong: [] }, words = { right: [], wrong: [] }, tips = [];
        for (const column of columns) {
          const number = shown(row, column), part = number / Math.max(all.support[row], 1);
          const value = !number ? null : share ? Math.sqrt(part) : Math.log10(number + 1);
          const right = row === column;
          line.right.push(right ? value : null);
          line.wrong.push(right ? null : value);
          if (!right && value !== null) most = Math.max(most, value);
          const word = !number ? "" : share ? whole(part) : String(number);
          words.right.push(right ? word : "");
          words.wrong.push(right ? "" : word);
          const of = `${number} of ${all.support[row]} test texts (${percent(part)})`;
          tips.push(all.multi
            ? [name(row), column === nothing ? "missed, no label wrongly predicted" : `missed, wrongly predicted: ${name(column)}`, of]
            : [`true: ${name(row)}`, right ? "correct" : `predicted as ${name(column)}`, of]);
        }
        grids.right.push(line.right); grids.wrong.push(line.wrong); texts.right.push(words.right); texts.wrong.push(words.wrong); hover.push(tips);
      }
      const places = columns.map((_, k) => k), common = {
        type: "heatmap", x: places, y: places.slice(0, count), xgap: 1, ygap: 1, showscale: false, hoverongaps: false,
        customdata: hover, textfont: { size: count > 15 ? 9 : 12 },
        hovertemplate: "%{customdata[0]}<br>%{customdata[1]}<br>%{customdata[2]}<extra></extra>",
        ...(count <= 30 ? { texttemplate: "%{text}" } : {}),
      };
      const scale = (shade) => [[0, `var(--${shade}-low)`], [1, `var(--${shade}-high)`]];
      const plot = report.plots["confusion-plot"];
      plot.data = [
        { ...common, z: grids.wrong, text: texts.wrong, zmin: 0, zmax: share ? Math.max(0.3, Math.min(most, 1)) : most, colorscale: scale("wrong") },
        { ...common, z: grids.right, text: texts.right, zmin: 0, zmax: share ? 1 : Math.max(...grids.right.flat(), 1e-9), colorscale: scale("right") },
      ];
      const font = { size: count > 40 ? 9 : count > 25 ? 10 : 11.5 };
      const axis = { tickmode: "array", showgrid: false, tickfont: font };
      plot.layout.xaxis = { ...axis, tickvals: places, ticktext: columns.map((c) => clip(name(c))), side: "top",
        tickangle: -55, range: [-0.5, columns.length - 0.5] };
      plot.layout.yaxis = { ...axis, tickvals: places.slice(0, count), range: [count - 0.5, -0.5],
        ticktext: classes.map((c) => `${clip(all.labels[c])} (${all.support[c]})`) };
      plot.canvas.style.minWidth = `${220 + columns.length * (count > 25 ? 14 : count > 12 ? 24 : 32)}px`;
      plot.layout.margin = { l: 8, r: 40, t: 8, b: 8 };
      plot.layout.height = 170 + count * (count > 40 ? 14 : count > 25 ? 18 : count > 12 ? 24 : 34);
      return report.draw("confusion-plot");
    }
    for (const each of Object.values(select)) each?.addEventListener("change", show);
    await show();
  });

  // Precision-recall curves of chosen classes.
  panel("curves-plot", async () => {
    const all = await report.data("curves-data"), chosen = [...all.chosen];
    const plot = report.plots["curves-plot"], message = element("curves-message");
    const noun = element("curves-form").dataset.noun;
    const numbers = new Map(all.labels.map((label, c) => [label, c]));
    const colours = 6;

    function curve(c, place) {
      const { true_positives, predicted, cuts } = all.series[c], positives = all.positives[c];
      const recall = true_positives.map((count) => count / positives), precision = true_positives.map((count, k) => count / predicted[k]);
      const area = sum(recall.map((value, k) => (value - (k ? recall[k - 1] : 0)) * precision[k]));
      const colour = `var(--c${place % colours + 1})`, name = all.labels[c];
      const line = {
        x: [0, ...recall], y: [precision[0], ...precision], customdata: [cuts[0], ...cuts].map((cut) => [name, cut]),
        mode: "lines", line: { shape: "vh", color: colour, width: 2, dash: place < colours ? "solid" : "dash" },
        name: `${clip(name, 40)}: ${fixed(area, 3)}`, showlegend: false,
        hovertemplate: "%{customdata[0]}<br>recall %{x:.3f}, precision %{y:.3f}<br>threshold %{customdata[1]:.4f}<extra></extra>",
      };
      const ring = {
        x: [all.decisions[1][c]], y: [all.decisions[0][c]], mode: "markers", showlegend: false, customdata: [[name]],
        marker: { size: 12, color: "var(--card)", line: { color: colour, width: 2.5 } },
        hovertemplate: "%{customdata[0]}, decisions of the run<br>recall %{x:.3f}, precision %{y:.3f}<extra></extra>",
      };
      return { traces: [line, ring], area, colour };
    }

    function show() {
      const list = element("curves-chosen");
      list.replaceChildren();
      plot.data = [];
      chosen.forEach((c, place) => {
        const { traces, area, colour } = curve(c, place);
        plot.data.push(...traces);
        const chip = made("li"), swatch = made("span", "", "swatch"), drop = made("button", "×");
        swatch.style.background = colour;
        drop.type = "button";
        drop.setAttribute("aria-label", `Remove ${all.labels[c]}`);
        drop.addEventListener("click", () => {
          chosen.splice(chosen.indexOf(c), 1);
          message.textContent = `${all.labels[c]} removed`;
          show();
          (list.querySelector("button") ?? element("curves-add")).focus();
        });
        const numbers = `AP ${fixed(area)}, ${all.positives[c]} test, ${all.train[c]} training`;
        chip.append(swatch, made("strong", all.labels[c]), made("span", numbers), drop);
        list.append(chip);
      });
      return report.draw("curves-plot");
    }

    function add() {
      const field = element("curves-add"), c = numbers.get(field.value);
      if (c === undefined) { if (field.value) message.textContent = `No ${noun} has this name.`; return; }
      if (all.series[c] === null) message.textContent = "It has no test texts.";
      else if (chosen.includes(c)) message.textContent = "It is already shown.";
      else { chosen.push(c); message.textContent = `${all.labels[c]} added`; show(); }
      field.value = "";
    }
    element("curves-form").addEventListener("submit", (event) => { event.preventDefault(); add(); });
    // A name chosen from the list is added at once. A typed name needs Enter, because it may be the start of another.
    element("curves-add").addEventListener("input", (event) => {
      if (event.inputType === "insertReplacementText" || !(event instanceof InputEvent)) add();
    });
    await show();
  });

  // Precision, recall and F1 against one threshold.
  panel("thresholds-plot", async () => {
    const all = await report.data("thresholds-data"), grid = all.grid;
    const select = { split: element("thresholds-split"), label: element("thresholds-label") };
    const slider = element("thresholds-value"), table = element("thresholds-table");
    const above = (bins) => {
      const counts = new Array(grid.length);
      for (let k = grid.length - 1, total = 0; k >= 0; k--) counts[k] = total += bins[k + 1];
      return counts;
    };
    const score = (true_positives, predicted, positives) => {
      const precision = predicted ? true_positives / predicted : positives ? 0 : NaN, recall = positives ? true_positives / positives : NaN;
      return { Precision: precision, Recall: recall, F1: positives ? 2 * true_positives / (predicted + positives) : NaN };
    };
    const cache = {};

    function split(name) {
      return cache[name] ??= (() => {
        const { texts, predicted, true_positives } = all.splits[name];
        const labels = predicted.map((bins, c) => ({ predicted: above(bins), true_positives: above(true_positives[c]), positives: sum(true_positives[c]) }));
        const supported = labels.filter((label) => label.positives), positives = sum(labels.map((label) => label.positives));
        const points = grid.map((_, k) => {
          const predictions = sum(labels.map((label) => label.predicted[k]));
          const each = supported.map((label) => score(label.true_positives[k], label.predicted[k], label.positives));
          const macro = Object.fromEntries(["Precision", "Recall", "F1"].map(
            (name) => [name, sum(each.map((one) => one[name])) / each.length]));
          return { micro: { ...score(sum(labels.map((label) => label.true_positives[k])), predictions, positives),
            predicted: predictions / texts, true: positives / texts }, macro };
        });
        return { labels, points, texts };
      })();
    }

    function lines(value) {
      const { labels, points, texts } = split(select.split.value), c = select.label.value;
      if (c === "") {
        return { rows: points, series: [["micro F1", "c1", points.map((p) => p.micro.F1), "solid"],
          ["macro F1", "c2", points.map((p) => p.macro.F1), "solid"],
          ["micro precision", "c1", points.map((p) => p.micro.Precision), "dot"],
          ["micro recall", "c1", points.map((p) => p.micro.Recall), "dash"]] };
      }
      const label = labels[Number(c)];
      const rows = grid.map((_, k) => ({ micro: { ...score(label.true_positives[k], label.predicted[k], label.positives),
        predicted: label.predicted[k] / texts, true: label.positives / texts }, macro: {} }));
      return { rows, series: [["F1", "c2", rows.map((row) => row.micro.F1), "solid"],
        ["precision", "c1", rows.map((row) => row.micro.Precision), "dot"],
        ["recall", "c3", rows.map((row) => row.micro.Recall), "dash"]] };
    }

    let frame = 0;
    function show() {
      const k = Number(slider.value) - 1, c = select.label.value, one = c !== "", { rows, series } = lines();
      element("thresholds-shown").value = grid[k].toFixed(3);
      slider.setAttribute("aria-valuetext", grid[k].toFixed(3));
      const own = one && all.thresholds ? all.thresholds[c] : null, on = `on the ${select.split.value} split`;
      element("thresholds-note").textContent = one
        ? `${all.labels[c]} ${on}; ${own === null ? "the run used no thresholds" : `the run's threshold is ${fixed(own)}`}`
        : `All labels on the ${select.split.value} split; the columns on the right are the run's own decisions on the test split`;
      table.classList.toggle("one", one);
      table.querySelector("[data-head=micro]").textContent = one ? "at this threshold" : "micro";
      for (const average of ["micro", "macro"]) {
        for (const cell of table.querySelectorAll(`[data-${average}]`)) {
          const value = rows[k][average][cell.dataset[average]] ?? NaN;
          cell.textContent = fixed(value, ["predicted", "true"].includes(cell.dataset[average]) ? 2 : 3);
        }
      }
      const plot = report.plots["thresholds-plot"];
      plot.layout.xaxis.title = { text: one ? `threshold of ${clip(all.labels[c], 40)}` : "threshold for all labels" };
      plot.canvas.setAttribute("aria-label", one ? `Precision, recall and F1 of ${all.labels[c]} against its threshold, ${on}`
        : `Precision, recall and F1 against one threshold for all labels, ${on}`);
      plot.data = series.map(([name, colour, y, dash]) => ({
        x: grid, y, name, mode: "lines", line: { color: `var(--${colour})`, width: 2, dash },
        hovertemplate: `threshold %{x:.3f}<br>${name} %{y:.3f}<extra></extra>`,
      }));
      const line = (x, colour, dash) => ({ type: "line", x0: x, x1: x, y0: 0, y1: 1, yref: "paper",
        line: { color: `var(--${colour})`, width: 1.5, dash } });
      plot.layout.shapes = [line(grid[k], "ink", "solid"), ...(own === null ? [] : [line(own, "c4", "dash")])];
      plot.layout.annotations = own !== null ? [{ x: own, y: 0.03, yref: "paper", text: "run", showarrow: false,
        xanchor: "left", xshift: 5, font: { color: "var(--c4)" } }] : [];
      cancelAnimationFrame(frame);
      return new Promise((resolve) => { frame = requestAnimationFrame(() => resolve(report.draw("thresholds-plot"))); });
    }
    slider.addEventListener("input", show);
    select.split.addEventListener("change", show);
    select.label.addEventListener("change", () => {
      const c = select.label.value;
      if (c !== "" && all.thresholds) slider.value = Math.max(1, Math.min(grid.length, Math.round(all.thresholds[c] * (grid.length + 1))));
      show();
    });
    await show();
  });

  // Worst mistakes and their texts.
  panel("errors-list", async () => {
    const all = await report.data("errors-data"), list = element("errors-list"), page = 15;
    const kind = element("errors-kind"), roles = [...document.querySelectorAll("#errors [data-role]")];
    let shown = page;

    function wanted() {
      return all.errors.filter((error) => (!kind?.value || error.kind === kind.value)
        && roles.every((role) => role.value === "" || error[role.dataset.role] === Number(role.value)));
    }

    function item(error) {
      const node = made("li"), head = made("p", undefined, "verdict"), text = all.texts[error.row];
      const tag = (name, colour) => made("strong", name, colour);
      if (all.multi) {
        const positive = error.kind === "false_positive";
        head.append(tag(all.labels[error.label], positive ? "wrong" : "right"), positive ? " false positive" : " false negative",
          made("span", `probability ${error.p < 0.0005 ? "below 0.001" : fixed(error.p)}`
            + (error.threshold === undefined ? "" : `, threshold ${fixed(error.threshold)}`), "sure"));
      } else {
        head.append("predicted ", tag(all.labels[error.predicted], "wrong"), " true ", tag(all.labels[error.true], "right"),
          made("span", `p(predicted) ${percent(error.p_predicted)}, p(true) ${percent(error.p_true)}`, "sure"));
      }
      node.append(head);
      if (text.length > 260) {
        const details = made("details"), summary = made("summary");
        summary.append(made("span", `${text.slice(0, 240)}…`, "begin"));
        details.append(summary, made("p", text, "text"));
        node.append(details);
      } else {
        node.append(made("p", text, "text"));
      }
      const foot = made("p", `text ${all.ids[error.row]}`, "of");
      if (all.multi) {
        const truth = new Set(all.truth[error.row]), predicted = new Set(all.predicted[error.row]);
        const names = (word, numbers, style) => {
          if (!numbers.length) return;
          foot.append(` · ${word} `, made("span", numbers.map((c) => all.labels[c]).join(", "), style));
        };
        names("correct:", [...predicted].filter((c) => truth.has(c)));
        names("false positives:", [...predicted].filter((c) => !truth.has(c)), "wrong");
        names("false negatives:", [...truth].filter((c) => !predicted.has(c)), "right");
      }
      node.append(foot);
      return node;
    }

    function show() {
      const errors = wanted();
      list.replaceChildren(...errors.slice(0, shown).map(item));
      const many = Math.min(shown, errors.length);
      element("errors-count").textContent = all.complete ? `Showing ${many} of ${errors.length}`
        : `Showing ${many} of ${errors.length} on this page`;
      element("errors-more").hidden = errors.length <= shown;
    }
    for (const each of [kind, ...roles]) each?.addEventListener("change", () => { shown = page; show(); });
    element("errors-more").addEventListener("click", () => {
      const before = Math.min(shown, wanted().length);
      shown += page;
      show();
      const next = list.children[before];
      next.tabIndex = -1;
      next.focus();
    });
    show();
  });
})();
