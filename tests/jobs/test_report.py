"""The report in a real browser, without a network."""

import pytest
from playwright.sync_api import sync_playwright


@pytest.fixture(scope="module")
def page(chromium, tiny_run):
    """The report of a finished run, opened; what the console said and what it asked the network for."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"],
        )
        context = browser.new_context(viewport={"width": 1200, "height": 900}, offline=True)
        page = context.new_page()
        said, asked = [], []
        page.on("console", lambda message: said.append((message.type, message.text)))
        page.on("pageerror", lambda error: said.append(("error", str(error))))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((tiny_run.folder / "report.html").as_uri())
        page.wait_for_selector(".main-svg")
        yield page, said, asked
        browser.close()


def test_it_loads_without_a_network_and_without_an_error(page):
    _, said, asked = page
    assert [message for message in said if message[0] in ("error", "warning")] == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


def test_it_has_the_line_on_the_images(page, tiny_run):
    browser_page, _, _ = page
    line = browser_page.locator("#data").text_content()
    record = tiny_run.read("train.done.json")
    described = record["data"]
    images = ", ".join(f"{count} {split}" for split, count in record["images"].items())
    classes = "10 classes (0, 1, 2, 3, 4, 5, 6, 7 and 2 more)"
    assert line == f"{described['source']}: {classes}, images: {images}; left out: nothing"
    assert described["images"] == record["images"] and described["left_out"] == {}


def test_every_plot_is_drawn(page):
    """Each has its axes' titles, and as many points on the screen as there are numbers behind them."""
    browser_page, _, _ = page
    plots = browser_page.evaluate(
        """() => [...document.querySelectorAll('.plotly-graph-div')].map(plot => ({
            traces: plot.data.map(trace => ({name: trace.name, mode: trace.mode, points: trace.x.length})),
            drawn: plot.querySelectorAll('.scatterlayer .point').length,
            lines: [...plot.querySelectorAll('.scatterlayer path.js-line')]
                .filter(path => path.getAttribute('d').length > 5).length,
            titles: [...plot.querySelectorAll('.infolayer text')]
                .filter(text => /^[xy]\\d*title$/.test(text.classList[0])).length,
            width: plot.getBoundingClientRect().width,
            height: plot.getBoundingClientRect().height,
        }))"""
    )
    assert len(plots) == 5
    for plot in plots:
        with_markers = sum(trace["points"] for trace in plot["traces"] if "markers" in trace["mode"])
        assert plot["drawn"] == with_markers > 0, plot
        assert plot["lines"] == sum("lines" in trace["mode"] and trace["points"] > 1 for trace in plot["traces"]), plot
        assert plot["titles"] >= 2
        assert plot["width"] > 500
        assert plot["height"] > 300


def test_the_table_has_every_member_with_the_command_that_exports_it(page, tiny_run):
    browser_page, _, _ = page
    commands = browser_page.eval_on_selector_all("#front tbody code", "cells => cells.map(cell => cell.textContent)")
    keys = [member["key"] for member in tiny_run.read("validated.json")["members"]]
    assert [command.split("--arch ")[1] for command in commands] == keys
    assert all(command.startswith("ofa export ") and "--store" in command for command in commands)
    rows = browser_page.locator("#front tbody tr").count()
    assert rows == len(tiny_run.read("front.json")["members"])


def test_the_front_is_the_one_in_front_json(page, tiny_run):
    browser_page, _, _ = page
    trace = browser_page.evaluate("() => document.querySelector('#figure0').data.find(trace => trace.name === 'front')")
    members = tiny_run.read("front.json")["members"]
    assert trace["x"] == [member["macs"] for member in members]
    assert trace["y"] == pytest.approx([member["top1"] * 100 for member in members])


def test_it_says_of_every_ensemble_what_it_gains_and_of_the_best_how_much_was_luck(page, tiny_run):
    browser_page, _, _ = page
    found = tiny_run.read("ensembles.json")
    fronts = [found, *found["other_costs"]]
    shown = browser_page.eval_on_selector_all(
        "#ensembles tbody tr", "rows => rows.map(row => row.lastElementChild.textContent.split(' ')[0])"
    )
    assert shown == [f"{100 * row['gain']:+.2f}" if "gain" in row else "" for front in fronts for row in front["members"]]
    text = browser_page.locator("body").inner_text()
    for front in fronts:
        helped = [row for row in front["members"] if row.get("gain", 0) > 0]
        ensembles = [row for row in front["members"] if "gain" in row]
        assert f"cost is the {front['cost']} over the members, {len(helped)} of {len(ensembles)} ensembles" in text
        assert f"{100 * front['curse']['gap']:+.2f} points are optimism" in text


def test_the_searches_hypervolumes_are_those_of_history_json(page, tiny_run):
    browser_page, _, _ = page
    traces = browser_page.evaluate(
        """() => [...document.querySelectorAll('.plotly-graph-div')].flatMap(plot => plot.data)
            .filter(trace => /^(measured|predicted) /.test(trace.name) && trace.mode == 'lines')
            .map(trace => ({name: trace.name, x: [...trace.x], y: [...trace.y]}))"""
    )
    searches = tiny_run.read("history.json")["searches"]
    assert [trace["name"] for trace in traces] == [f"{s['search']} ({s['algorithm']})" for s in searches]
    for trace, search in zip(traces, searches, strict=True):
        assert trace["x"][-1] == search["evaluations"][-1]
        assert trace["y"][-1] == search["hypervolume"][-1] == max(search["hypervolume"])
        assert trace["x"][0] >= 1
