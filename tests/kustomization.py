"""What ``kubectl kustomize`` renders of our overlays, read without kubectl.

Read is what these files use, no more: another key or another kind of patch fails here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

_KNOWN = {
    "apiVersion",
    "kind",
    "namespace",
    "resources",
    "images",
    "configMapGenerator",
    "secretGenerator",
    "generatorOptions",
    "patches",
}

Object = dict[str, Any]


def render(folder: Path) -> list[Object]:
    """Every object of an overlay."""
    read = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert set(read) <= _KNOWN
    objects: list[Object] = []
    for name in read.get("resources", ()):
        place = folder / name
        if place.is_dir():
            objects += render(place)
        else:
            objects += [each for each in yaml.safe_load_all(place.read_text()) if each]
    for kind, key in (("ConfigMap", "configMapGenerator"), ("Secret", "secretGenerator")):
        for given in read.get(key, ()):
            _generate(objects, kind, given, folder)
    for patch in read.get("patches", ()):
        (changed,) = yaml.safe_load_all((folder / patch["path"]).read_text())
        (target,) = (each for each in objects if _identity(each) == _identity(changed))
        _merge(target, changed)
    images = {each["name"]: f"{each['newName']}:{each['newTag']}" for each in read.get("images", ())}
    for each in objects:
        for container in containers(each):
            container["image"] = images.get(container["image"], container["image"])
        if "namespace" in read:
            each["metadata"]["namespace"] = read["namespace"]
    return objects


def containers(rendered: Object) -> list[Object]:
    """The containers of a Job's or a Deployment's pods."""
    template = rendered.get("spec", {}).get("template", {})
    found: list[Object] = template.get("spec", {}).get("containers", [])
    return found


def _identity(rendered: Object) -> tuple[str, str]:
    return rendered["kind"], rendered["metadata"]["name"]


def _generate(objects: list[Object], kind: str, given: Object, folder: Path) -> None:
    lines = list(given.get("literals", ()))
    for name in given.get("envs", ()):
        lines += [line for line in (folder / name).read_text().splitlines() if line]
    content = dict(line.split("=", 1) for line in lines)
    field = "data" if kind == "ConfigMap" else "stringData"
    made = {"apiVersion": "v1", "kind": kind, "metadata": {"name": given["name"]}, field: content}
    if given.get("behavior") == "merge":
        (target,) = (each for each in objects if _identity(each) == _identity(made))
        _merge(target, made)
    else:
        objects.append(made)


def _merge(target: Object, change: Object) -> None:
    """A strategic merge patch: lists of named things are merged by name, other values are replaced."""
    for key, value in change.items():
        old = target.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            _merge(old, value)
        elif isinstance(value, list) and isinstance(old, list) and all(isinstance(x, dict) for x in value):
            name = "mountPath" if key == "volumeMounts" else "name"
            for each in value:
                same = [other for other in old if other[name] == each[name]]
                if same:
                    _merge(same[0], each)
                else:
                    old.append(each)
        else:
            target[key] = value
