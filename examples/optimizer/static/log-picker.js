// Three ways to a log: choose a file, drop one, or take a sample.

export class LogPicker {
  constructor(element, { onFile, onSample }) {
    const input = element.querySelector("input[type=file]");
    input.addEventListener("change", () => {
      if (input.files.length) onFile(input.files[0]);
      // Else choosing the same file again, mended, would be no change.
      input.value = "";
    });
    for (const button of element.querySelectorAll("[data-sample]")) {
      button.addEventListener("click", () => onSample(button.dataset.sample));
    }
    for (const type of ["dragenter", "dragover"]) {
      element.addEventListener(type, (event) => {
        event.preventDefault();
        element.classList.add("over");
      });
    }
    element.addEventListener("dragleave", () => element.classList.remove("over"));
    element.addEventListener("drop", (event) => {
      event.preventDefault();
      element.classList.remove("over");
      if (event.dataTransfer.files.length) onFile(event.dataTransfer.files[0]);
    });
  }
}
