"""The report's page in a real headless browser: opened from a file, with no network."""

import dataclasses
import html.parser
import itertools
import json
import random
import urllib.parse

import pytest

from star_jax.reporting.attempts import (
    EVALUATION,
    HINT,
    KEPT_WORDS,
    STAGES,
    STEPS,
    VERDICTS,
    AttemptsData,
    ShownAttempt,
    StageSample,
    collect_attempts,
)
from star_jax.reporting.page import render_page
from star_jax.reporting.tables import Picture, Section, Table
from star_jax.run.metrics import iteration_name
from tests.attempts_data import HOSTILE, write_small_run
from tests.browser import running_browser
from tests.fake_runs import write_report, write_run

READY = "document.getElementById('browser')?.dataset.ready === 'yes'"
MOST_BYTES = 20_000_000
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000003000000030802000000d94a22e80000000c49444154"
    "789c63f8ffff3f03320000 3df30bf56a9e3ff80000000049454e44ae426082".replace(" ", "")
)
TABLE = Table(
    "Table <1>",
    ("run", "ours %", "95 % interval"),
    (
        ("b", "9.5", "8.0 to 11.0"),
        ("a", "72.5", "70.0 to 74.1"),
        ("c", "not run", ""),
        ("d", "10.0", "9.0 to 11.0"),
    ),
    note="`not run`: there is no such run.",
)
SECTIONS = [
    Section(f"Tables & {HOSTILE}", (HOSTILE, "In `code`."), (TABLE,)),
    Section("Figure 4", (), (), (Picture("figure4.png", PNG, f"Accuracy {HOSTILE}"),)),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with running_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def attempts(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")
    names = ["first", f"second {HOSTILE}"]
    for name in names:
        write_small_run(place / str(names.index(name)))
    return collect_attempts({name: place / str(i) for i, name in enumerate(names)})


@pytest.fixture(scope="module")
def address(attempts, tmp_path_factory):
    return written(tmp_path_factory.mktemp("page"), attempts)


@pytest.fixture
def page(browser, address):
    browser.open(address, READY)
    return browser


def written(place, attempts, sections=SECTIONS):
    file = place / "report.html"
    text = render_page(f"star_jax {HOSTILE}", sections, attempts)
    file.write_text(text, encoding="utf-8")
    return file.as_uri()


OF_AN_ATTEMPT = ("verdict", "hint", "kept", "steps", "group", "sample", "turn")


def rows_of(attempts):
    """(facets, attempt) of every attempt in the page, in its order."""
    for sample in attempts.samples:
        for a in sample.attempts:
            yield (
                {
                    "run": sample.run,
                    "iteration": iteration_name(sample.iteration),
                    "stage": sample.stage,
                    **{name: getattr(a, name) for name in OF_AN_ATTEMPT},
                },
                a,
            )


def found(browser):
    """The number that the page says it found."""
    text = browser.js("document.querySelector('.status').textContent")
    return 0 if text.startswith("No attempt") else int(text.split()[0].replace(",", ""))


def choose(browser, facet, value):
    """Chooses in a filter as a person does; "" is all."""
    browser.js(
        f"""(() => {{
          const select = document.getElementById("filter-{facet}");
          const option = [...select.options].find((o) =>
            o.textContent.replace(/ \\([\\d,]+\\)$/, "") === {json.dumps(value or "all")});
          select.value = option.value;
          select.dispatchEvent(new Event("change"));
        }})()"""
    )


def search(browser, words):
    browser.js(
        f"""(() => {{
          const input = document.getElementById("filter-q");
          input.value = {json.dumps(words)};
          input.dispatchEvent(new Event("input"));
        }})()"""
    )
    said = urllib.parse.urlencode({"q": words}) if words else ""
    settled_when(browser, f"location.hash.includes({json.dumps(said)})")
    if not words:
        settled_when(browser, "!location.hash.includes('q=')")


def settled(browser, hash_part):
    settled_when(browser, f"decodeURIComponent(location.hash).includes({json.dumps(hash_part)})")


def settled_when(browser, condition):
    """Waits until the address is such, and the page shows what the address says."""
    shown = "document.getElementById('browser').dataset.shown === location.hash"
    browser.wait(f"({condition}) && {shown}")


def shown_texts(browser):
    return browser.js(
        "[...document.querySelectorAll('article')].map((card) => "
        "[...card.querySelectorAll('pre')].map((pre) => pre.textContent))"
    )


# Without a browser


class Outline(html.parser.HTMLParser):
    """The elements of a page, and what they refer to."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.references, self.handlers = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.references += [v for name, v in attrs if name in ("src", "href", "srcset", "action")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


def test_page_refers_to_nothing_but_itself(attempts):
    text = render_page(HOSTILE, SECTIONS, attempts)
    outline = Outline(text)
    assert outline.tags.count("script") == 2 and outline.tags.count("img") == 1
    assert not outline.handlers
    assert all(reference.startswith(("#", "data:")) for reference in outline.references)
    for outside in ("http:", "https:", "//cdn", "@import", "url("):
        assert outside not in text


def test_half_a_character_in_a_name_can_be_written(tmp_path):
    attempts = AttemptsData((StageSample("run \udce4", 0, EVALUATION, (), 0),))
    page = render_page("", [Section("run \udce4")], attempts)
    assert "run ?" in page and page.encode()


# In the browser


def test_page_loads_with_nothing_on_the_console_and_no_request(page, attempts):
    assert found(page) == attempts.n_shown
    assert page.js("document.querySelectorAll('article').length") == 25
    assert page.complaints() == []
    assert page.requests() == []


def test_every_choice_of_every_filter_shows_what_fits_it(page, attempts):
    rows = list(rows_of(attempts))
    for facet in rows[0][0]:
        values = sorted({facets[facet] for facets, _ in rows})
        assert len(values) > 1, facet
        for value in values:
            expected = sum(facets[facet] == value for facets, _ in rows)
            choose(page, facet, value)
            settled_when(
                page, f"new URLSearchParams(location.hash.slice(10)).get('{facet}') !== null"
            )
            assert found(page) == expected, (facet, value)
            option = page.js(
                f"document.getElementById('filter-{facet}').selectedOptions[0].textContent"
            )
            assert option == f"{value} ({expected})"
        choose(page, facet, "")
        settled_when(page, "location.hash === '#attempts?'")
        assert found(page) == len(rows)


def test_filters_add_up_and_say_how_many_there_are(page, attempts):
    chosen = {"run": "first", "stage": "evaluation", "verdict": "wrong", "group": "2"}
    for facet, value in chosen.items():
        choose(page, facet, value)
        settled(page, f"{facet}={value}")
    fitting = [a for facets, a in rows_of(attempts) if chosen.items() <= facets.items()]
    assert found(page) == len(fitting) > 0
    assert shown_texts(page) == [[a.question, a.rationale] for a in fitting]
    assert "18 of 18 attempts of the chosen" in page.js(
        "document.querySelector('.status').textContent"
    )
    # Each other choice of a filter has the number that it would show.
    right = sum(
        {**chosen, "verdict": "right"}.items() <= facets.items() for facets, _ in rows_of(attempts)
    )
    options = page.js(
        "[...document.getElementById('filter-verdict').options].map((o) => o.textContent)"
    )
    assert options == ["all", f"right ({right})", f"wrong ({len(fitting)})"]
    page.js("document.querySelector('form button').click()")
    settled_when(page, "location.hash === '#attempts?'")
    assert found(page) == attempts.n_shown


@pytest.mark.parametrize(
    ("words", "n"),
    [
        ("the ANSWER is", 4),  # 2 runs, 2 iterations
        ("(7).", 4),  # no regular expression
        ("SCRIPT>window", 4),
        ("7  is", 4),
        ("is seven. more", 4),  # across a line's end
        ("validation_03", 6),
        ("no such words", 0),
        ("[", 0),  # no regular expression, and no error
    ],
)
def test_search_finds_words_whatever_their_case(page, attempts, words, n):
    search(page, words)
    assert found(page) == n
    search(page, "")
    assert found(page) == attempts.n_shown


def test_an_address_restores_its_view_and_back_goes_back(browser, address, attempts):
    view = {"stage": "generated", "verdict": "unparsed", "q": "</script>"}
    browser.open(f"{address}#attempts?{urllib.parse.urlencode(view)}", READY)
    fitting = [
        a
        for facets, a in rows_of(attempts)
        if facets["stage"] == "generated" and facets["verdict"] == "unparsed"
    ]
    assert shown_texts(browser) == [[a.question, a.rationale] for a in fitting]
    assert browser.js("document.getElementById('filter-q').value") == "</script>"
    choose(browser, "verdict", "")
    settled_when(browser, "!location.hash.includes('verdict')")
    choose(browser, "iteration", "2")
    settled(browser, "iteration=2")
    assert found(browser) == 2
    for n in (len(fitting), len(fitting)):
        before = browser.js("location.hash")
        browser.js("history.back()")
        settled_when(browser, f"location.hash !== {json.dumps(before)}")
        assert found(browser) == n
    assert browser.complaints() == []


def test_an_address_of_another_report_shows_all(browser, address, attempts):
    browser.open(f"{address}#attempts?run=elsewhere&page=99&nonsense=1&__proto__=2", READY)
    assert found(browser) == attempts.n_shown
    assert browser.complaints() == []


def test_a_click_on_a_question_shows_it_over_the_iterations(page, attempts):
    page.js("document.querySelector('article .question a').click()")
    settled(page, "question=")
    name = page.js("new URLSearchParams(location.hash.slice(10)).get('question')")
    fitting = [(facets, a) for facets, a in rows_of(attempts) if a.id == name]
    assert len(fitting) == 6  # 2 runs, 3 iterations
    assert shown_texts(page) == [[a.question, a.rationale] for _, a in fitting]
    marks = page.js("[...document.querySelectorAll('.mark')].map((mark) => mark.dataset.verdict)")
    assert marks == [a.verdict for _, a in fitting]
    page.js("document.querySelectorAll('.mark')[4].click()")
    assert page.js("[...document.querySelectorAll('article')].indexOf(document.activeElement)") == 4
    page.js("document.querySelector('.followed button').click()")
    settled_when(page, "!location.hash.includes('question')")
    assert found(page) == attempts.n_shown


def test_after_a_question_and_another_part_of_the_page_the_filters_are_still_there(page):
    choose(page, "verdict", "wrong")
    settled(page, "verdict=wrong")
    n = found(page)
    page.js("document.querySelector('article .question a').click()")
    settled(page, "question=")
    page.js("document.querySelector('.contents a').click()")
    settled_when(page, "location.hash === '#part-1'")
    assert found(page) == n
    for _ in range(2):  # to the question, and to the list before it
        page.js("history.back()")
        settled_when(page, "location.hash !== '#part-1'")
    settled(page, "verdict=wrong")
    assert found(page) == n
    page.js("history.back()")
    settled_when(page, "location.hash === ''")
    assert found(page) > n


def test_a_wrong_attempt_shows_the_expected_answer(browser, address):
    """Of a run that did not record it, a right answer of another attempt."""
    answers = "[...document.querySelectorAll('.answer')].map((e) => e.textContent)"
    for hash_part, said in (
        ("iteration=base&stage=evaluation&verdict=wrong&run=first", ["Answer7Expected3"] * 5),
        ("iteration=base&stage=evaluation&verdict=right&run=first", ["Answer3"]),
        ("stage=generated&verdict=wrong&run=first", ["Answer7Correct in another attempt3"] * 2),
        ("question=train_4&stage=generated&run=first", []),  # dropped, and solved nowhere
    ):
        browser.open(f"{address}#attempts?{hash_part}", READY)
        assert browser.js(answers) == said, hash_part


def test_the_base_is_called_base(browser, address):
    browser.open(f"{address}#attempts?question=validation_01", READY)
    where = browser.js("[...document.querySelectorAll('.where')].map((e) => e.textContent)")
    assert {text.split(" · ")[1] for text in where} == {"base", "iteration 1", "iteration 2"}
    heads = "[...document.querySelectorAll('.timeline thead th')].map((e) => e.textContent)"
    assert browser.js(heads) == ["iteration", "base", "1", "2"]


@pytest.mark.parametrize("width", [1280, 1440, 1920])
def test_no_table_is_cut_where_the_page_has_room(browser, tmp_path, width):
    """The report of two runs, with all of its tables, as wide as a screen is."""
    for name in ("one", "other"):
        write_run(tmp_path / name, 3, row="figure4/with_rationalization_tiny")
    file = tmp_path / "out"
    write_report([str(tmp_path / "one"), str(tmp_path / "other")], str(file), "star_jax")
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=900,
                 deviceScaleFactor=1, mobile=False)  # fmt: skip
    browser.open((file / "report.html").as_uri(), READY)
    boxes = browser.js(
        "[...document.querySelectorAll('div.table')].map((box) => [box.scrollWidth,"
        " box.clientWidth, innerWidth - box.getBoundingClientRect().right])"
    )
    browser.call("Emulation.clearDeviceMetricsOverride")
    assert len(boxes) > 10
    assert [box for box in boxes if box[0] > box[1]] == []


@pytest.mark.parametrize(
    ("name", "n", "where", "n_there"), [("train_1", 4, "sample 1", 2), ("train_3", 6, "turn 1", 1)]
)
def test_every_sample_and_turn_has_its_own_card(
    browser, address, attempts, name, n, where, n_there
):
    browser.open(f"{address}#attempts?question={name}&run=first", READY)
    rows = [(f, a) for f, a in rows_of(attempts) if (a.id, f["run"]) == (name, "first")]
    assert len({(f["iteration"], f["stage"], a.sample, a.turn) for f, a in rows}) == n == len(rows)
    assert shown_texts(browser) == [[a.question, a.rationale] for _, a in rows]
    shown = browser.js("[...document.querySelectorAll('.where')].map((e) => e.textContent)")
    expected = [f"group 1 · sample {a.sample} · turn {a.turn}" for _, a in rows]
    assert [text[text.index("group") :] for text in shown] == expected
    assert sum(where in text for text in shown) == n_there
    assert browser.js("document.querySelectorAll('.mark').length") == n


def test_what_a_model_wrote_is_text_and_nothing_else(page):
    search(page, "window.pwned")
    cards = shown_texts(page)
    assert [rationale for question, rationale in cards if rationale == HOSTILE] == [HOSTILE] * 4
    assert f"Is this {HOSTILE}?" in {question for question, _ in cards}
    page.js("document.querySelector('article .question a').click()")
    settled(page, "question=")
    command = page.js("document.querySelector('.command').textContent")
    title = page.js("document.querySelector('h2').textContent")
    assert (command, title) == (f"star_jax {HOSTILE}", f"Tables & {HOSTILE}")
    assert page.js("document.images.length") == 1  # the figure
    assert page.js("typeof window.pwned") == "undefined"
    assert page.complaints() == [] and page.requests() == []


@pytest.mark.parametrize(
    ("attack", "stopped_by"),
    [
        ("new Image().src = outside", "img-src"),
        ("fetch(outside).catch(() => 0)", "connect-src"),
        ("document.head.append(make('style', {}, '* { color: red }'))", "style-src-elem"),
        ("document.body.append(make('iframe', { src: outside }))", "frame-src"),
        ("document.head.append(make('base', { href: outside }))", "base-uri"),
        ("make('form', { action: outside }).submit()", "form-action"),
        ("document.body.innerHTML = '<b>'", "require-trusted-types-for"),
        ("make('b').setAttribute('onclick', 'window.pwned = 1')", "require-trusted-types-for"),
        (
            "document.body.append(make('script', {}, 'window.pwned = 1'))",
            "require-trusted-types-for",
        ),
    ],
)
def test_what_is_smuggled_in_is_stopped_by_the_policy_of_the_page(page, attack, stopped_by):
    stopped = page.js(
        f"""new Promise((done) => {{
          document.addEventListener("securitypolicyviolation", (e) => done(e.effectiveDirective));
          setTimeout(() => done("nothing"), 5000);
          const outside = "http://127.0.0.1:9/";
          function make(tag, attributes = {{}}, text = "") {{
            const element = Object.assign(document.createElement(tag), attributes);
            element.textContent = text;
            if (tag === "form") document.body.append(element);
            return element;
          }}
          try {{ {attack}; }} catch {{}}
        }})"""
    )
    assert stopped == stopped_by
    assert page.js("typeof window.pwned") == "undefined"


def test_pages_and_attempts_are_turned_with_the_keyboard(page, attempts):
    assert attempts.n_shown > 50
    page.key("n")
    settled(page, "page=2")
    assert page.js("document.querySelector('.pager span').textContent").startswith("Page 2 of ")
    rows = [a for _, a in rows_of(attempts)]
    assert shown_texts(page)[0] == [rows[25].question, rows[25].rationale]
    page.key("p")
    settled_when(page, "!location.hash.includes('page')")
    for place in (0, 1, 2, 1):
        page.key("k" if place == 1 and page.js(focused) == 2 else "j")
        assert page.js(focused) == place
    page.key("o")
    settled(page, f"question={rows[1].id}")
    page.key("/")
    page.key("j")
    assert page.js("document.getElementById('filter-q').value") == "j"


focused = "[...document.querySelectorAll('article')].indexOf(document.activeElement)"


def test_columns_of_tables_are_sorted_by_their_heads(page):
    column = (
        "[...document.querySelectorAll('main table tbody tr')].map((r) => r.cells[1].textContent)"
    )
    head = "document.querySelectorAll('main table th')[1]"
    given = page.js(column)
    orders = []
    for _ in range(3):
        page.js(f"{head}.querySelector('button').click()")
        orders.append((page.js(f"{head}.getAttribute('aria-sort')"), page.js(column)))
    assert orders == [
        ("ascending", ["9.5", "10.0", "72.5", "not run"]),
        ("descending", ["72.5", "10.0", "9.5", "not run"]),
        (None, given),
    ]


def test_everything_that_can_be_worked_with_has_a_name(page):
    """A label or a text for every control, a heading for every section, an alt for each figure."""
    page.js("document.querySelector('article .question a').click()")
    settled(page, "question=")
    nameless = page.js(
        """[...document.querySelectorAll("input, select, button, a, img, section, nav")]
        .filter((e) => !(e.labels?.length || e.getAttribute("aria-label") || e.alt ||
                         e.textContent.trim()))
        .map((e) => e.outerHTML)"""
    )
    assert nameless == []
    levels = page.js("[...document.querySelectorAll('h1, h2, h3')].map((h) => +h.tagName[1])")
    assert levels[0] == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))


def test_a_report_of_runs_without_attempts_says_so(browser, tmp_path):
    browser.open(
        written(tmp_path, AttemptsData(), []),
        "document.querySelector('#browser .message')?.textContent.startsWith('There are no')",
    )
    assert browser.complaints() == [] and browser.requests() == []


def test_a_page_of_twenty_runs_of_thirty_iterations_is_small_enough_and_quick(browser, tmp_path):
    """Of texts that cannot be compressed, which is worse than any model's."""
    draw = random.Random(0)
    noise = draw.randbytes(2**20).hex()

    def text(n):
        start = draw.randrange(len(noise) - n)
        return noise[start : start + n]

    def sample(run, iteration, stage):
        made = tuple(
            ShownAttempt(
                id=f"q{i}",
                sample="0",
                turn="0",
                question=text(300),
                rationale=text(700),
                answer=text(5),
                expected=text(5),
                group=str(i % 5),
                verdict=VERDICTS[i % 3],
                hint=HINT[stage == "rationalized"],
                kept=KEPT_WORDS[2],
                steps=STEPS[2],
                ended=1,
                tokens=99,
            )
            for i in range(16)
        )
        return StageSample(f"run {run}", iteration, stage, made, 10_000)

    many = AttemptsData(
        tuple(
            sample(run, n, stage)
            for run in range(20)
            for n in range(31)
            for stage in STAGES
            if stage in ("generated", "rationalized", EVALUATION)
        )
    )
    big = dataclasses.replace(SECTIONS[1].pictures[0], png=PNG + draw.randbytes(3_000_000))
    page = written(tmp_path, many, [Section("Figures", pictures=(big,))])
    size = (tmp_path / "report.html").stat().st_size
    assert MOST_BYTES / 2 < size < MOST_BYTES
    browser.open(page, READY)
    n = found(browser)
    assert 5_000 < n < many.n_shown
    search(browser, "abc")
    assert 0 < found(browser) < n
    took = browser.js(
        "(() => { const start = performance.now(); location.hash = '#attempts?verdict=right';"
        "return new Promise((done) => addEventListener('hashchange', () =>"
        "done(performance.now() - start))); })()"
    )
    assert took < 5_000  # ms; some 50 on a machine that does nothing else
    assert browser.complaints() == []
