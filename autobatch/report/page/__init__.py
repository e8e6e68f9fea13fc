"""A run, or several, as one page that needs nothing but a browser.

In come read run directories; out goes HTML with words, tables, the plane and the curves. Open ``_page.py`` first.
"""

from autobatch.report.page._page import check_page, html_page, save_html

__all__ = [
    "check_page",
    "html_page",
    "save_html",
]
