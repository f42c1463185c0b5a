"""What axe complains of on a page, in a third of the time where a table has hundreds of rows.

The contrast of text takes it longest, and depends on styles alone: of all text that is drawn alike one piece is looked
at. The other rules look at everything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from axe_playwright_python.base import AXE_SCRIPT, AxeResults

if TYPE_CHECKING:
    from playwright.sync_api import Page

ONE_OF_EACH_LOOK = """() => {
    const looks = new Map();
    for (const element of document.body.querySelectorAll('*')) {
        const says = [...element.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.data.trim());
        if (!says && !element.matches('input, select, textarea, button')) continue;
        const { color, fontSize, fontWeight, textShadow } = getComputedStyle(element);
        let look = [color, fontSize, fontWeight, textShadow].join();
        for (let each = element; each; each = each.parentElement) {
            const { backgroundColor, backgroundImage, opacity, filter } = getComputedStyle(each);
            look += [each.tagName, each.className, backgroundColor, backgroundImage, opacity, filter].join();
        }
        if (element.checkVisibility() && !looks.has(look)) looks.set(look, element);
    }
    return [...looks.values()];
}"""
"""A list of elements, one for each way in which text is drawn: its own style, and what lies behind it."""
_RUN = f"""async () => {{
    const found = await axe.run({{ resultTypes: ['violations'], rules: {{ 'color-contrast': {{ enabled: false }} }} }});
    const include = ({ONE_OF_EACH_LOOK})();
    if (include.length) {{
        const contrast = await axe.run({{ include }}, {{ resultTypes: ['violations'], runOnly: ['color-contrast'] }});
        found.violations.push(...contrast.violations);
    }}
    return found;
}}"""


def violations(page: Page) -> str:
    """Return what axe finds on a page that Playwright's synchronous API has opened, as text; "" where it is nothing."""
    if page.evaluate("typeof axe") == "undefined":
        page.evaluate(AXE_SCRIPT)
    results = AxeResults(page.evaluate(_RUN))
    report: str = results.generate_report() if results.violations_count else ""
    return report
