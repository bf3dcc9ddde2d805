"""The raters' page; sheets.py fills it in."""

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>Which explanation is better?</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 0 auto; padding: 1rem; }
section { border-top: 1px solid #bbb; padding: 0.5rem 0 1.5rem; }
.sides { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; background: #f5f5f5; padding: 0.6rem; }
.sides .text { background: #eef3fa; }
h2, h3 { font-size: 1rem; margin: 0.6rem 0 0.2rem; }
fieldset { border: 0; padding: 0.8rem 0 0; margin: 0; }
legend { position: absolute; left: -999rem; }
label { margin-right: 1.5rem; }
footer { position: sticky; bottom: 0; background: #fff; padding: 0.6rem; }
footer { border-top: 2px solid #333; }
@media (max-width: 40rem) { .sides { grid-template-columns: 1fr; } }
</style>
</head>
<body>
<h1>Which explanation is better?</h1>
%%INSTRUCTIONS%%
<p>Your choices stay on this device until you save them as a file, which you then send back.</p>
<main>
%%ITEMS%%
</main>
<footer>
<span id="done" role="status"></span>
<label>Your name <input id="rater" autocomplete="off"></label>
<button id="save" type="button">Save my answers</button>
</footer>
<script>
"use strict";
const store = "comparison-%%NAME%%";
const items = [...document.querySelectorAll("section")].map(section => section.dataset.item);
let answers = {};
try { answers = JSON.parse(localStorage.getItem(store)) || {}; } catch { /* begin anew */ }
function show() {
  const n = items.filter(item => answers[item]).length;
  document.getElementById("done").textContent = `${n} of ${items.length} done`;
}
for (const input of document.querySelectorAll("input[type=radio]")) {
  input.checked = answers[input.name] === input.value;
  input.addEventListener("change", () => {
    answers[input.name] = input.value;
    try { localStorage.setItem(store, JSON.stringify(answers)); } catch { /* kept on the page */ }
    show();
  });
}
function table() {
  const rows = items.map(item => `${item},${answers[item] || ""}`);
  return ["item,preference", ...rows].join("\\r\\n") + "\\r\\n";
}
document.getElementById("save").addEventListener("click", () => {
  const name = document.getElementById("rater").value.trim().replace(/[^\\p{L}\\p{N}_-]+/gu, "_");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([table()], { type: "text/csv" }));
  link.download = `${name || "answers"}.csv`;
  link.click();
});
show();
</script>
</body>
</html>
"""
