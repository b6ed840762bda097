"use strict";
(() => {
  const $ = (name) => document.getElementById(name);
  const root = document.documentElement;

  // --- Colours -----------------------------------------------------------------------------------------------------

  const themes = [["", "as the system"], ["light", "light"], ["dark", "dark"]];
  let theme = 0;
  $("theme").hidden = false;
  $("theme").addEventListener("click", () => {
    theme = (theme + 1) % themes.length;
    const [value, name] = themes[theme];
    if (value) root.dataset.theme = value; else delete root.dataset.theme;
    $("theme-name").textContent = name;
    $("theme").setAttribute("aria-label", `Colours: ${name}`);
  });
  if (!$("rows-table")) return;

  // --- Data --------------------------------------------------------------------------------------------------------

  async function unpack(name) {
    const text = atob($(name).textContent);
    const packed = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  }

  let head, numbers, sources, decisions, columns;  // what `rows` and `numbers` hold
  const blocks = new Map();  // the texts of blocks that were unpacked
  const decoder = new TextDecoder();

  async function readData() {
    head = JSON.parse(decoder.decode(await unpack("rows")));
    const buffer = await unpack("numbers"), n = head.rows;
    numbers = new Uint32Array(buffer, 0, n);
    sources = new Uint32Array(buffer, 4 * n, n);
    decisions = new Uint8Array(buffer, 8 * n, n);
    const start = 8 * n + n + (4 - n % 4) % 4;
    columns = head.columns.map((column, k) => ({...column, values: new Float32Array(buffer, start + 4 * n * k, n)}));
  }

  async function block(k) {
    if (!blocks.has(k)) {
      const buffer = await unpack(`texts-${k}`);
      const rows = Math.min(head.block, head.rows - k * head.block);
      const lengths = new Uint32Array(buffer, 0, 2 * rows), starts = new Uint32Array(2 * rows + 1);
      starts[0] = 8 * rows;
      for (let i = 0; i < 2 * rows; i++) starts[i + 1] = starts[i] + lengths[i];
      blocks.set(k, {bytes: new Uint8Array(buffer), starts});
    }
    return blocks.get(k);
  }

  function textIn(held, i, part) {
    return decoder.decode(held.bytes.subarray(held.starts[2 * i + part], held.starts[2 * i + part + 1]));
  }

  async function text(row, part) {
    return head.blocks ? textIn(await block(Math.floor(row / head.block)), row % head.block, part) : "";
  }

  const sourceOf = (row) => head.sources[sources[row]] ?? `(one of ${head.more.toLocaleString("en")} more)`;
  const isKept = (row) => head.decisions[decisions[row]] === head.selected;
  const pause = () => new Promise((resolve) => setTimeout(resolve));

  // --- Numbers -----------------------------------------------------------------------------------------------------

  function shown(value) {
    if (Number.isNaN(value)) return "not known";
    return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)));
  }

  function signed(value) {
    if (Number.isNaN(value)) return "not known";
    return `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(4)}`;
  }

  const terms = () => columns.filter((column) => column.kind === "contribution");

  function strongest(row) {
    const found = terms().map((term) => [term.name, term.values[row]]).filter(([, value]) => !Number.isNaN(value));
    return found.sort(([, a], [, b]) => Math.abs(b) - Math.abs(a));
  }

  // --- Which rows are shown ----------------------------------------------------------------------------------------

  const SIZE = 25, MOST_SOURCES = 200;
  const state = {query: "", decision: "", source: "", sort: "row", descending: false, page: 0};
  let visible = new Uint32Array(0), turn = 0;

  async function matching(mine) {
    const found = new Uint8Array(head.rows).fill(1);
    if (state.decision !== "") found.forEach((_, i) => { if (decisions[i] !== Number(state.decision)) found[i] = 0; });
    if (state.source !== "") found.forEach((_, i) => { if (sources[i] !== Number(state.source)) found[i] = 0; });
    const query = state.query.toLowerCase();
    if (!query) return found;
    for (let k = 0; k < head.blocks; k++) {
      const held = await block(k), first = k * head.block, last = Math.min(first + head.block, head.rows);
      for (let row = first; row < last; row++) {
        if (!found[row]) continue;
        const i = row - first;
        found[row] = [0, 1].some((part) => textIn(held, i, part).toLowerCase().includes(query)) ? 1 : 0;
      }
      await pause();
      if (mine !== turn) return null;
      $("status").textContent = `Searching… ${Math.round(100 * (k + 1) / head.blocks)} %`;
    }
    return found;
  }

  async function sortKeys(mine) {
    if (state.sort === "row") return numbers;
    if (state.sort === "decision") return decisions;
    if (state.sort === "source") {
      const order = head.sources.map((name, k) => [name, k]).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
      const rank = new Uint32Array(head.sources.length + 1).fill(head.sources.length);
      order.forEach(([, code], place) => { rank[code] = place; });
      return Uint32Array.from(sources, (code) => rank[code]);
    }
    if (state.sort === "prompt" || state.sort === "response") {
      const part = state.sort === "prompt" ? 0 : 1, keys = new Array(head.rows);
      for (let k = 0; k < head.blocks; k++) {
        const held = await block(k), first = k * head.block;
        for (let i = 0; first + i < Math.min(first + head.block, head.rows); i++) {
          keys[first + i] = textIn(held, i, part).slice(0, 60).trimStart().toLowerCase();
        }
        await pause();
        if (mine !== turn) return null;
      }
      return keys;
    }
    return columns[Number(state.sort)].values;
  }

  async function update(page = 0) {
    const mine = ++turn;
    const found = await matching(mine), keys = found && await sortKeys(mine);
    if (mine !== turn || !keys) return;
    let count = 0;
    const rows = new Uint32Array(head.rows);
    for (let i = 0; i < head.rows; i++) if (found[i]) rows[count++] = i;
    visible = rows.subarray(0, count);
    const sign = state.descending ? -1 : 1;
    visible.sort((a, b) => {
      const x = keys[a], y = keys[b];
      if (x === y) return a - b;
      if (x !== x || y !== y) return x !== x ? (y !== y ? a - b : 1) : -1;  // what is not known comes last
      return x < y ? -sign : sign;
    });
    await render(page);
  }

  // --- The table ---------------------------------------------------------------------------------------------------

  function element(tag, content, className) {
    const made = document.createElement(tag);
    if (content !== undefined) made.textContent = content;
    if (className) made.className = className;
    return made;
  }

  function isolated(content) {
    const made = element("bdi", content);
    made.dir = "auto";
    return made;
  }

  let layout;  // the columns of the table: key, name, kind

  function makeLayout() {
    layout = [{key: "row", name: "row", kind: "number"}, {key: "decision", name: "decision", kind: "decision"}];
    if (head.sources.length) layout.push({key: "source", name: "source", kind: "source"});
    columns.forEach((c, k) => { if (c.kind === "prediction") layout.push({key: String(k), name: c.name, kind: "number"}); });
    if (terms().length) layout.push({key: null, name: "what decided (nats)", kind: "why"});
    if (head.blocks) layout.push({key: "prompt", name: "prompt", kind: "prompt"}, {key: "response", name: "response", kind: "response"});
    columns.forEach((c, k) => { if (c.kind === "indicator") layout.push({key: String(k), name: c.name, kind: "number indicator"}); });
    for (const column of layout) {
      const cell = element("th", undefined, column.kind);
      cell.scope = "col";
      if (column.key === null) cell.textContent = column.name;
      else {
        const button = element("button", column.name);
        button.type = "button";
        button.addEventListener("click", () => sortBy(column.key, state.sort === column.key && !state.descending));
        cell.append(button);
      }
      column.cell = cell;
      $("rows-head").append(cell);
    }
    const choices = layout.filter((column) => column.key !== null).map((column) => [column.key, column.name]);
    columns.forEach((c, k) => { if (c.kind === "contribution") choices.push([String(k), `contribution of ${c.name}`]); });
    fill($("sort"), choices);
  }

  function fill(select, choices) {
    for (const [value, name] of choices) {
      const option = element("option", name);
      option.value = value;
      select.append(option);
    }
  }

  function sortBy(key, descending) {
    state.sort = key;
    state.descending = descending;
    $("sort").value = key;
    $("direction").textContent = descending ? "↓ descending" : "↑ ascending";
    $("direction").setAttribute("aria-label", `Order: ${descending ? "descending" : "ascending"}`);
    for (const column of layout) {
      const mine = column.key === key;
      if (mine) column.cell.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else column.cell.removeAttribute("aria-sort");
      const button = column.cell.querySelector("button");
      if (button) button.textContent = column.name + (mine ? (descending ? " ↓" : " ↑") : "");
    }
    update();
  }

  const decided = (row) => `${isKept(row) ? "✓" : "✗"} ${head.decisions[decisions[row]]}`;

  function cellOf(column, row, prompt, response) {
    const cell = element("td", undefined, column.kind);
    if (column.key === "decision") cell.textContent = head.decisions.includes(head.selected) ? decided(row) : head.decisions[decisions[row]];
    else if (column.key === "source") cell.append(isolated(sourceOf(row)));
    else if (column.kind === "why") {
      for (const [name, value] of strongest(row).slice(0, 3)) {
        const line = element("span", `${signed(value)} `);
        line.append(isolated(name));
        cell.append(line);
      }
    } else if (column.key === "prompt" || column.key === "response") {
      const snippet = element("span", (column.key === "prompt" ? prompt : response).slice(0, 240), "snippet");
      snippet.dir = "auto";
      cell.append(snippet);
    } else cell.textContent = shown(columns[Number(column.key)].values[row]);
    return cell;
  }

  function rowElement(place, row, prompt, response) {
    const line = element("tr");
    if (isKept(row)) line.className = "kept";
    line.dataset.place = place;
    const first = element("th", undefined, "number");
    first.scope = "row";
    const button = element("button", numbers[row].toLocaleString("en"));
    button.type = "button";
    button.setAttribute("aria-haspopup", "dialog");
    button.setAttribute("aria-label", `Row ${numbers[row].toLocaleString("en")}: ${head.decisions[decisions[row]]}; show all of it`);
    first.append(button);
    line.append(first, ...layout.slice(1).map((column) => cellOf(column, row, prompt, response)));
    return line;
  }

  async function render(page) {
    const pages = Math.max(1, Math.ceil(visible.length / SIZE)), mine = turn;
    state.page = Math.min(Math.max(0, page), pages - 1);
    const first = state.page * SIZE, rows = [...visible.subarray(first, first + SIZE)];
    const lines = [];
    for (const [k, row] of rows.entries()) {
      lines.push(rowElement(first + k, row, await text(row, 0), await text(row, 1)));
    }
    if (mine !== turn) return;
    $("rows-body").replaceChildren(...lines);
    $("page").value = state.page + 1;
    $("page").max = pages;
    $("of").textContent = `of ${pages.toLocaleString("en")}`;
    for (const name of ["first", "previous"]) $(name).disabled = state.page === 0;
    for (const name of ["next", "last"]) $(name).disabled = state.page === pages - 1;
    const range = rows.length ? `, ${(first + 1).toLocaleString("en")} to ${(first + rows.length).toLocaleString("en")} shown` : "";
    $("status").textContent = `${visible.length.toLocaleString("en")} of ${head.rows.toLocaleString("en")} rows${range}`;
  }

  // --- One row -----------------------------------------------------------------------------------------------------

  let open = 0;  // its place among the visible rows

  function list(title, header, lines) {
    const table = element("table"), top = element("tr"), body = element("tbody"), begin = element("thead");
    table.append(element("caption", title));
    for (const name of header) {
      const cell = element("th", name);
      cell.scope = "col";
      top.append(cell);
    }
    begin.append(top);
    for (const [name, value] of lines) {
      const line = element("tr"), label = element("th");
      label.scope = "row";
      label.append(isolated(name));
      line.append(label, element("td", value, "number"));
      body.append(line);
    }
    table.append(begin, body);
    return table;
  }

  function rankOf(row, values) {
    let below = 0, known = 0;
    for (const value of values) {
      if (Number.isNaN(value)) continue;
      known++;
      if (value < values[row]) below++;
    }
    return known > 1 ? `${(100 * below / (known - 1)).toFixed(1)} % of the rows here are predicted lower` : "";
  }

  async function showRow(place) {
    open = Math.min(Math.max(0, place), visible.length - 1);
    const row = visible[open], body = $("detail-body"), parts = [];
    const prompt = await text(row, 0), response = await text(row, 1);
    $("detail-title").textContent = `Row ${numbers[row].toLocaleString("en")}: ${head.decisions[decisions[row]]}`;
    if (head.sources.length) {
      const line = element("p", "Source: ");
      line.append(isolated(sourceOf(row)));
      parts.push(line);
    }
    const predicted = columns.find((column) => column.kind === "prediction");
    if (predicted) {
      const value = predicted.values[row];
      const rank = Number.isNaN(value) ? "an indicator of the rule is missing" : rankOf(row, predicted.values);
      parts.push(element("p", `Predicted log loss: ${shown(value)} (lower is better); ${rank}.`));
    }
    const tables = element("div", undefined, "tables");
    parts.push(tables);
    if (terms().length) {
      const told = terms().map((term) => [term.name, signed(term.values[row])]);
      tables.append(list("What each term adds to the prediction, less its mean (nats): below 0 speaks for the row", ["term", "contribution"], told));
    }
    const indicators = columns.filter((column) => column.kind === "indicator");
    if (indicators.length) tables.append(list("Indicators", ["indicator", "value"], indicators.map((c) => [c.name, shown(c.values[row])])));
    if (head.blocks) {
      for (const [name, content] of [["Prompt", prompt], ["Response", response]]) {
        const box = element("pre", content || "(empty)");
        box.dir = "auto";
        parts.push(element("h4", name), box);
      }
    }
    body.replaceChildren(...parts);
    $("detail-previous").disabled = open === 0;
    $("detail-next").disabled = open === visible.length - 1;
    if (!$("detail").open) {
      $("detail").showModal();
      $("detail-close").focus();
    }
    $("detail").scrollTop = 0;
  }

  // --- What is done to it ------------------------------------------------------------------------------------------

  function later(action, delay) {
    let timer;
    return () => { clearTimeout(timer); timer = setTimeout(action, delay); };
  }

  function move(button, step) {
    const buttons = [...$("rows-body").querySelectorAll("button")], place = buttons.indexOf(button) + step;
    if (buttons[place]) buttons[place].focus();
  }

  async function turnPage(page) {
    await render(page);
    const button = $("rows-body").querySelector("button");
    if (button) button.focus();
  }

  function listen() {
    $("filters").addEventListener("submit", (event) => event.preventDefault());
    $("search").addEventListener("input", later(() => { state.query = $("search").value; update(); }, 250));
    $("decision").addEventListener("change", () => { state.decision = $("decision").value; update(); });
    $("source").addEventListener("change", () => { state.source = $("source").value; update(); });
    $("sort").addEventListener("change", () => sortBy($("sort").value, state.descending));
    $("direction").addEventListener("click", () => sortBy(state.sort, !state.descending));
    $("first").addEventListener("click", () => render(0));
    $("previous").addEventListener("click", () => render(state.page - 1));
    $("next").addEventListener("click", () => render(state.page + 1));
    $("last").addEventListener("click", () => render(Infinity));
    $("page").addEventListener("change", () => render((Number($("page").value) || 1) - 1));
    $("rows-body").addEventListener("click", (event) => {
      const line = event.target.closest("tr");
      if (!line || String(getSelection())) return;
      line.querySelector("button").focus();  // where closing leads back to
      showRow(Number(line.dataset.place));
    });
    $("detail").addEventListener("close", () => {
      const line = $("rows-body").querySelector(`tr[data-place="${open}"]`);
      if (line) line.querySelector("button").focus();
    });
    $("rows-body").addEventListener("keydown", (event) => {
      const steps = {ArrowDown: 1, ArrowUp: -1};
      if (event.key in steps) move(event.target, steps[event.key]);
      else if (event.key === "PageDown") turnPage(state.page + 1);
      else if (event.key === "PageUp") turnPage(state.page - 1);
      else return;
      event.preventDefault();
    });
    $("detail-close").addEventListener("click", () => $("detail").close());
    $("detail-previous").addEventListener("click", () => showRow(open - 1));
    $("detail-next").addEventListener("click", () => showRow(open + 1));
  }

  async function start() {
    if (typeof DecompressionStream === "undefined") {
      $("trouble").textContent = "This browser cannot unpack the table of rows (it has no DecompressionStream): open this "
        + "file in Chrome or Edge 80, Firefox 113, Safari 16.4, or a later one.";
      $("trouble").hidden = false;
      return;
    }
    $("status").textContent = "Reading the rows…";
    await readData();
    makeLayout();
    fill($("decision"), head.decisions.map((name, k) => [k, name]).filter(([k]) => decisions.includes(k)));
    fill($("source"), head.sources.map((name, k) => [k, name]).slice(0, MOST_SOURCES));
    const more = head.sources.length - MOST_SOURCES + head.more;
    if (more > 0) $("source").append(Object.assign(element("option", `(${more.toLocaleString("en")} smaller ones)`), {disabled: true}));
    if (!head.sources.length) $("source").parentElement.hidden = true;
    if (!head.blocks) $("search").parentElement.hidden = true;
    for (const name of ["filters", "rows-table", "pages"]) $(name).hidden = false;
    listen();
    sortBy("row", false);
  }

  function fail(error) {
    $("trouble").textContent = `The table of rows cannot be shown: ${error.message}`;
    $("trouble").hidden = false;
  }

  addEventListener("unhandledrejection", (event) => { event.preventDefault(); fail(event.reason); });
  start();
})();
