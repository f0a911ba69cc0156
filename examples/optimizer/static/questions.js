// What the log left open: which columns play which role, and which model made the calls.

const ROLE_NAMES = {
  time: "Time of the call",
  model: "Model",
  input_tokens: "Input tokens",
  output_tokens: "Output tokens",
};

export class Questions {
  #form;
  #mapping;
  #selects;
  #model;
  #modelInput;
  #upload = null;

  constructor(form, onRun) {
    this.#form = form;
    this.#mapping = form.querySelector(".mapping");
    this.#selects = form.querySelector(".selects");
    this.#model = form.querySelector(".which-model");
    this.#modelInput = this.#model.querySelector("input");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      onRun();
    });
    this.#selects.addEventListener("change", () => this.#askForModel());
  }

  get ready() {
    return this.#upload !== null && this.#form.checkValidity();
  }

  hide() {
    this.#upload = null;
    this.#form.hidden = true;
  }

  ask(upload) {
    this.#upload = upload;
    this.#form.hidden = false;
    this.#form.querySelector(".log-name").textContent = describe(upload);
    this.#mapping.hidden = upload.missing.length === 0;
    this.#selects.replaceChildren(...upload.missing.map((role) => this.#question(role)));
    this.#modelInput.value = "";
    this.#askForModel();
    this.#form.querySelector(upload.missing.length ? "select" : "button").focus();
  }

  order() {
    const roles = {};
    for (const select of this.#selects.querySelectorAll("select")) {
      if (select.value) roles[select.name] = select.value;
    }
    const order = { upload_id: this.#upload.upload_id, roles };
    if (!this.#model.hidden) order.model = this.#modelInput.value;
    return order;
  }

  report() {
    return this.#form.reportValidity();
  }

  #question(role) {
    const label = document.createElement("label");
    label.append(ROLE_NAMES[role]);
    const select = document.createElement("select");
    select.name = role;
    select.required = role !== "model";
    select.append(new Option(role === "model" ? "no column: all calls are of one model" : "choose a column", ""));
    for (const column of this.#freeColumns()) {
      const sample = this.#upload.samples[column]?.[0];
      select.append(new Option(sample ? `${column} (such as ${sample})` : column, column));
    }
    label.append(select);
    return label;
  }

  #freeColumns() {
    const taken = new Set(Object.values(this.#upload.roles));
    return this.#upload.columns.filter((column) => !taken.has(column));
  }

  #askForModel() {
    const select = this.#selects.querySelector('select[name="model"]');
    const needed = select !== null && select.value === "";
    this.#model.hidden = !needed;
    this.#modelInput.required = needed;
  }
}

function describe(upload) {
  const size = upload.size < 1e6 ? `${Math.ceil(upload.size / 1024)} KiB` : `${(upload.size / 2 ** 20).toFixed(1)} MiB`;
  const known = Object.entries(upload.roles).map(([role, column]) => `${ROLE_NAMES[role] ?? role} ← ${column}`);
  return `${upload.file_name}, ${size}. ${known.length ? known.join(", ") : "None of its columns is a known one"}.`;
}
