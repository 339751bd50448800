"""`flwr run` resolves all extras jointly, so they must fit together and fit what is installed."""

import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
DEPENDENCIES = PROJECT["project"]["dependencies"]
EXTRAS = PROJECT["project"]["optional-dependencies"]


def bounds() -> dict[str, list[SpecifierSet]]:
    """Return every bound on every package, over the dependencies and all extras."""
    found: dict[str, list[SpecifierSet]] = {}
    for line in [*DEPENDENCIES, *(line for lines in EXTRAS.values() for line in lines)]:
        requirement = Requirement(line)
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement.specifier)
    return found


def joint(specifiers: list[SpecifierSet]) -> SpecifierSet:
    return SpecifierSet(",".join(str(one) for one in specifiers))


def lowest(specifiers: SpecifierSet) -> Version:
    return max(
        (Version(s.version) for s in specifiers if s.operator in (">=", "==")), default=Version("0")
    )


def minor(specifiers: SpecifierSet, operator: str) -> int:
    (version,) = (Version(s.version) for s in specifiers if s.operator == operator)
    return version.minor


@pytest.mark.parametrize(("package", "specifiers"), bounds().items())
def test_the_extras_have_a_version_in_common(package, specifiers):
    assert lowest(joint(specifiers)) in joint(specifiers)


@pytest.mark.parametrize(("package", "specifiers"), bounds().items())
def test_the_installed_version_fits_every_extra(package, specifiers):
    try:
        installed = metadata.version(package)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{package} is not installed")
    assert installed in joint(specifiers)


@pytest.mark.parametrize("package", ["flwr", "torch"])
def test_one_range_everywhere(package):
    assert len(set(bounds()[package])) == 1


def test_torchvision_covers_the_same_releases_as_torch():
    """torchvision 0.(n + 15) is built for torch 2.n."""
    (torch, *_), (torchvision,) = bounds()["torch"], bounds()["torchvision"]
    assert minor(torchvision, ">=") == minor(torch, ">=") + 15
    assert minor(torchvision, "<") == minor(torch, "<") + 15


@pytest.mark.parametrize("extra", ["", "simulation"])
def test_what_flower_itself_pins_fits(extra):
    ours = bounds()
    for requirement in map(Requirement, metadata.requires("flwr")):
        name = canonicalize_name(requirement.name)
        if name in ours and (
            not requirement.marker or requirement.marker.evaluate({"extra": extra})
        ):
            both = joint([*ours[name], requirement.specifier])
            assert lowest(both) in both, f"flwr wants {requirement}"
