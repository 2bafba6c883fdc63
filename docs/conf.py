"""How Sphinx makes the site: `make docs`."""

from pathlib import Path

import plotly
from docutils.nodes import SkipNode
from latex2mathml.converter import convert

from workbench import __version__

project, author, copyright = "Teacher-aligned workbench", "", ""
extensions = ["myst_nb", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "sphinx_copybutton"]
root_doc, templates_path = "index", [str(Path(__file__).with_name("_templates"))]

myst_enable_extensions, myst_heading_anchors = ["dollarmath"], 3
nb_execution_mode, nb_ipywidgets_js = (
    "off",
    {},
)  # make.py has run the notebooks, and drawn their widgets

default_role = (
    "py:obj"  # `name` in a docstring: a link where there is such a name, code where there is none
)
autodoc_member_order, autodoc_preserve_defaults, autodoc_typehints_format = (
    "bysource",
    True,
    "short",
)
napoleon_use_ivar = True
suppress_warnings = ["ref.python"]  # a public name stands in its module, too
python_use_unqualified_type_names, maximum_signature_line_length = True, 100

html_theme, html_title, html_show_copyright, html_show_sourcelink = (
    "furo",
    f"{project} {__version__}",
    False,
    False,
)
html_static_path = ["site.css", "../workbench/widgets/static/view.css"]
html_static_path += [f"{Path(plotly.__file__).parent}/package_data/plotly.min.js"]
html_css_files = ["view.css", "site.css"]
html_math_renderer = "mathml"
pygments_style, pygments_dark_style = "default", "github-dark"


def setup(app):
    """Write formulas as MathML, which browsers draw themselves."""

    def draw(display):
        def visit(translator, node):
            translator.body.append(convert(node.astext(), display=display))
            raise SkipNode

        return visit, None

    app.add_html_math_renderer("mathml", draw("inline"), draw("block"))
