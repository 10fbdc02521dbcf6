"""The site has a page for all that is public."""

import sys
from pathlib import Path

import pytest

import fcbp

sys.path.insert(0, str(Path(__file__).parents[2] / "docs" / "tools"))

import methods as method_pages
import public


@pytest.fixture(scope="module")
def hooks():
    pytest.importorskip("mkdocs", reason="pip install 'fcbp[docs]'")
    pytest.importorskip("griffe", reason="pip install 'fcbp[docs]'")
    pytest.importorskip("latex2mathml", reason="pip install 'fcbp[docs]'")
    import hooks

    return hooks


@pytest.mark.parametrize("module", public.modules())
def test_every_public_name_has_its_place_on_a_page_of_the_api(module, hooks):
    page = hooks.api_page(module)
    for name in public.symbols(module):
        assert f"::: {module}.{name}\n" in page or f"{{#{module}.{name}}}" in page


def test_every_name_of_the_package_is_a_page_or_on_one():
    names = {f"fcbp.{name}" for name in fcbp.__all__}
    assert names <= public.identifiers()


def test_every_method_has_a_page_a_cost_and_documented_names():
    assert method_pages.ABOUT.keys() == fcbp.methods.METHODS.keys() == method_pages.COST.keys()
    for about in method_pages.ABOUT.values():
        for name in about.documented:
            assert (name if name.startswith("fcbp.") else f"fcbp.methods.{name}") in public.identifiers()


@pytest.mark.parametrize("name", fcbp.methods.METHODS)
def test_a_formula_is_drawn_without_a_script(name, hooks):
    source = f'<div class="arithmatex">\\[{method_pages.ABOUT[name].formula}\\]</div>'
    drawn = hooks.on_page_content(source)
    assert drawn.startswith('<div class="formula"><math')
    assert "\\" not in drawn


def test_a_role_of_a_docstring_is_a_link_or_code():
    pytest.importorskip("griffe", reason="pip install 'fcbp[docs]'")
    import roles

    assert roles.linked("as :func:`scan`", "fcbp.loop") == "as [`scan`][fcbp.loop.scan]"
    assert roles.linked("see :class:`fcbp.Hyperparams`", "fcbp.cbp") == "see [`fcbp.Hyperparams`][fcbp.Hyperparams]"
    assert roles.linked("not :func:`a_private_one`", "fcbp.cbp") == "not `a_private_one`"
