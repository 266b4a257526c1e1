"""What a rendered scene is built of, with Blender's Python module: meshes, materials, light, pictures, exact tracks.

Needs the extra `scenes3d` (`pip install -e ".[scenes3d]"`, Python 3.11 alone: PyPI has `bpy` for no other that this
project runs on), and on Debian the libraries that Blender links to even where it opens no window: `apt-get install
libegl1 libgl1 libice6 libsm6 libxfixes3 libxi6 libxkbcommon0 libxrender1 libxxf86vm1`. Blender is under the GPL;
nothing in the package imports this module but `courtyard.py` beside it, which is a script, and no picture that Blender
renders comes under its licence.

Lengths are metres, z is up, angles are radians; colours are given as people write them, "#b04a32".
"""

import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import bpy
import cv2
import numpy as np
from bpy_extras.object_utils import world_to_camera_view
from mathutils import Matrix, Vector

from motionv2v.typing import UInt8

Number = int | float
Place = tuple[Number, Number, Number]


def empty() -> None:
    """Throw away whatever scene there is, objects and materials included."""
    bpy.ops.wm.read_factory_settings(use_empty=True)


def linear(colour: str) -> tuple[float, ...]:
    """Return a colour such as "#b04a32" (sRGB) in Blender's linear light, opaque."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return (*(p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts), 1.0)


class Graph:
    """A tree of shader nodes; a node is added with what its inputs are: values, colours or other nodes' outputs."""

    def __init__(self, tree: Any):
        """Start with an empty tree."""
        self.tree = tree
        tree.nodes.clear()

    def add(self, kind: str, inputs: dict[str | int, Any] | None = None, **settings: Any) -> Any:
        """Add a node, `kind` without Blender's "ShaderNode" before it, and return its outputs."""
        node = self.tree.nodes.new(f"ShaderNode{kind}")
        for name, value in settings.items():
            setattr(node, name, value)
        for name, value in (inputs or {}).items():
            if isinstance(value, bpy.types.NodeSocket):
                self.tree.links.new(value, node.inputs[name])
            else:
                node.inputs[name].default_value = linear(value) if isinstance(value, str) else value
        return node.outputs

    def ramp(self, value: Any, stops: dict[Number, str]) -> Any:
        """Return colours for a value from 0 to 1, interpolated between stops."""
        node = self.add("ValToRGB", {0: value})[0].node
        elements = node.color_ramp.elements
        while len(elements) < len(stops):
            elements.new(0.5)
        for element, (position, colour) in zip(elements, sorted(stops.items()), strict=True):
            element.position, element.color = position, linear(colour)
        return node.outputs[0]

    def mix(self, first: Any, second: Any, share: Any, blend: str = "MIX") -> Any:
        """Return two colours mixed, `share` (0 to 1) of the second."""
        names = {"Factor": share, 6: first, 7: second}  # 6, 7: the colour inputs among those of all types
        return self.add("Mix", names, data_type="RGBA", blend_type=blend)[2]

    def noise(self, scale: Number, detail: Number = 6, stretch: Place = (1, 1, 1), at: Any = None) -> Any:
        """Return noise of a scale (per metre), stretched along axes, in coordinates of the object."""
        at = self.add("TexCoord")["Object"] if at is None else at
        at = self.add("Mapping", {"Vector": at, "Scale": stretch})[0]
        return self.add("TexNoise", {"Vector": at, "Scale": scale, "Detail": detail, "Roughness": 0.62})[0]


def material(name: str, look: Callable[[Graph], dict[str, Any]]) -> Any:
    """Make a material: `look` returns inputs of the principled shader by name, and "Bump", a height in metres."""
    made = bpy.data.materials.new(name)
    made.use_nodes = True
    graph = Graph(made.node_tree)
    inputs = look(graph)
    if "Bump" in inputs:
        inputs["Normal"] = graph.add("Bump", {"Height": inputs.pop("Bump"), "Distance": 1.0})[0]
    graph.add("OutputMaterial", {0: graph.add("BsdfPrincipled", inputs)[0]})
    return made


def _adopt(name: str, looks: Sequence[Any], bevel: Number = 0.0) -> Any:
    """Name the mesh that was just added, give it materials and round its edges."""
    made = bpy.context.object
    made.name = name
    for look in looks:
        made.data.materials.append(look)
    if bevel:
        modifier = made.modifiers.new("bevel", "BEVEL")
        modifier.width, modifier.segments = bevel, 3
    return made


def group(name: str, parts: Sequence[Any]) -> Any:
    """Return an empty object that its parts move with; they stay where they are in relation to it."""
    made = bpy.data.objects.new(name, None)
    bpy.context.collection.objects.link(made)
    for part in parts:
        part.parent = made
    return made


def box(name: str, size: Place, place: Place, look: Any, bevel: Number = 0.0, taper: Number = 1.0) -> Any:
    """Add a box with its centre at a place; its top is `taper` times as large as its bottom."""
    bpy.ops.mesh.primitive_cube_add(size=1)
    made = _adopt(name, [look], bevel)
    for vertex in made.data.vertices:
        factor = taper if vertex.co.z > 0 else 1.0
        vertex.co = Vector((vertex.co.x * size[0] * factor, vertex.co.y * size[1] * factor, vertex.co.z * size[2]))
    made.location = place
    return made


def lathe(name: str, profile: Sequence[tuple[Number, Number]], place: Place, look: Any, sides: int = 64) -> Any:
    """Add a body of revolution about z from (radius, height) pairs, in order; radius 0 closes it."""
    ring = [(math.cos(a), math.sin(a)) for a in np.arange(sides) * 2 * math.pi / sides]
    corners = [(r * x, r * y, z) for r, z in profile for x, y in ring]
    faces = [
        [row * sides + k, row * sides + (k + 1) % sides, (row + 1) * sides + (k + 1) % sides, (row + 1) * sides + k]
        for row in range(len(profile) - 1)
        for k in range(sides)
    ]
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata(corners, [], faces)
    mesh.materials.append(look)
    made = bpy.data.objects.new(name, mesh)
    made.location = place
    bpy.context.collection.objects.link(made)
    return made


def ball(name: str, radius: Number, looks: Sequence[Any], cap: Any) -> Any:
    """Add a ball about the origin with one look a wedge, as a beach ball, and a cap at either pole (axis z)."""
    bpy.ops.mesh.primitive_uv_sphere_add(radius=radius, segments=12 * len(looks), ring_count=36)
    made = _adopt(name, [*looks, cap])
    for face in made.data.polygons:
        x, y, z = face.center
        share = (math.atan2(y, x) / (2 * math.pi)) % 1
        face.material_index = len(looks) if abs(z) > 0.95 * radius else int(share * len(looks))
        face.use_smooth = True
    return made


def disk(name: str, radius: Number, depth: Number, place: Place, looks: Sequence[Any]) -> Any:
    """Add a flat cylinder with its axis along y, such as a wheel; its ten sectors take the looks in turn."""
    bpy.ops.mesh.primitive_cylinder_add(radius=radius, depth=depth, vertices=60, end_fill_type="TRIFAN")
    made = _adopt(name, looks)
    made.data.transform(Matrix.Rotation(math.pi / 2, 4, "X"))
    for face in made.data.polygons:
        face.material_index = int((math.atan2(face.center.z, face.center.x) / (2 * math.pi)) % 1 * 10) % len(looks)
    made.location = place
    return made


def word(text: str, height: Number, place: Place, look: Any) -> Any:
    """Add flat text in Blender's own letters, upright and seen from the front (from below 0 on y)."""
    bpy.ops.object.text_add(rotation=(math.pi / 2, 0, 0))
    body = bpy.context.object.data
    body.body, body.size, body.align_x, body.align_y, body.extrude = text, height, "CENTER", "CENTER", 0.001
    bpy.ops.object.convert(target="MESH")
    made = _adopt(f"the word {text}", [look])
    made.location = place
    return made


def bush(name: str, radius: Number, place: Place, shape: Place, look: Any) -> Any:
    """Add a ball of leaves, stretched by `shape`."""
    bpy.ops.mesh.primitive_ico_sphere_add(subdivisions=5, radius=radius)
    made = _adopt(name, [look])
    clumps = bpy.data.textures.get("clumps") or bpy.data.textures.new("clumps", "VORONOI")
    clumps.noise_scale = 0.13
    modifier = made.modifiers.new("clumps", "DISPLACE")
    modifier.texture, modifier.texture_coords, modifier.strength, modifier.mid_level = clumps, "GLOBAL", 0.18, 0.5
    made.location, made.scale = place, shape
    return made


def outside(elevation: Number, direction: Number, strength: Number = 5.2, sky: Number = 0.2) -> None:
    """Light the scene by a sun `elevation` above the horizon, from `direction` (0 is the y axis, right is above 0)."""
    scene = bpy.context.scene
    scene.world = bpy.data.worlds.new("sky")
    scene.world.use_nodes = True
    graph = Graph(scene.world.node_tree)
    blue = graph.add("TexSky", sky_type="NISHITA", sun_disc=False, sun_elevation=elevation, sun_rotation=direction)[0]
    lit = graph.add("Background", {0: blue, 1: sky})[0]
    at = graph.add("TexCoord")["Generated"]
    height = graph.add("SeparateXYZ", {0: at})[2]
    clouds = graph.ramp(graph.noise(2.2, 7, (1, 1, 3.5), at), {0.5: "#000000", 0.72: "#ffffff"})
    shown = graph.mix(graph.ramp(height, {0.0: "#c3d6e6", 0.35: "#5f93cc"}), "#f4f2ee", clouds)
    seen = graph.add("Background", {0: shown, 1: 0.8})[0]
    is_seen = graph.add("LightPath")["Is Camera Ray"]
    graph.add("OutputWorld", {0: graph.add("MixShader", {0: is_seen, 1: lit, 2: seen})[0]})
    light = bpy.data.lights.new("sun", "SUN")
    light.energy, light.angle, light.color = strength, math.radians(2.0), (1.0, 0.93, 0.82)
    sun = bpy.data.objects.new("sun", light)
    sun.rotation_euler = (math.pi / 2 - elevation, 0, -direction - math.pi)
    bpy.context.collection.objects.link(sun)


def camera(size: tuple[int, int], lens: Number) -> Any:
    """Add the camera that takes pictures of a size (H, W), with a lens of so many millimetres on 36 mm of film."""
    scene, made = bpy.context.scene, bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    made.data.lens = lens
    bpy.context.collection.objects.link(made)
    scene.camera = made
    scene.render.resolution_y, scene.render.resolution_x = size
    return made


def aim(viewer: Any, place: Place, at: Place) -> None:
    """Put the camera somewhere, level and looking at a place."""
    viewer.location = place
    viewer.rotation_euler = (Vector(at) - Vector(place)).to_track_quat("-Z", "Y").to_euler()


def quality(samples: int, seed: int, threads: int = 0) -> None:
    """Set how pictures are made: by path tracing with so many samples a pixel, denoised; `threads` 0 takes all cores.

    The noise of all frames has one seed, so that what stands still does not flicker.
    """
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.device, scene.cycles.samples, scene.cycles.seed = "CPU", samples, seed
    scene.cycles.use_adaptive_sampling, scene.cycles.use_denoising = False, True
    scene.cycles.max_bounces = 4
    scene.render.use_persistent_data = True
    scene.render.threads_mode, scene.render.threads = ("FIXED", threads) if threads else ("AUTO", 1)
    scene.view_settings.view_transform, scene.view_settings.look = "AgX", "AgX - Medium High Contrast"
    scene.view_settings.exposure = 0.2
    scene.render.image_settings.file_format, scene.render.image_settings.color_mode = "PNG", "RGB"


def photograph() -> UInt8[np.ndarray, "H W 3"]:
    """Take the picture of the scene as it is posed now."""
    scene = bpy.context.scene
    with tempfile.TemporaryDirectory() as folder:
        scene.render.filepath = str(Path(folder) / "frame.png")
        bpy.ops.render.render(write_still=True)
        return cv2.cvtColor(cv2.imread(scene.render.filepath), cv2.COLOR_BGR2RGB)


def pick(x: Number, y: Number) -> tuple[Any, Vector]:
    """Return what the camera sees at (x, y), in pixels from the top-left corner: an object, and the place on it."""
    scene = bpy.context.scene
    corners = scene.camera.data.view_frame(scene=scene)  # clockwise from the top right
    right, down = x / scene.render.resolution_x, y / scene.render.resolution_y
    across, along = corners[0] - corners[3], corners[2] - corners[3]
    through = scene.camera.matrix_world @ (corners[3] + across * right + along * down)
    start = scene.camera.matrix_world.translation
    hit, place, _, _, thing, matrix = scene.ray_cast(bpy.context.evaluated_depsgraph_get(), start, through - start)
    if not hit:
        raise ValueError(f"the camera sees nothing but sky at ({x}, {y})")
    return thing.original, matrix.inverted() @ place


def locate(thing: Any, place: Vector) -> tuple[float, float, bool]:
    """Return where the camera sees a place on an object, x and y in pixels, and whether it sees it at all.

    It does where the place lies in the picture and a ray from the camera to it meets nothing before it.
    """
    scene = bpy.context.scene
    point = thing.matrix_world @ place
    right, up, depth = world_to_camera_view(scene, scene.camera, point)
    start = scene.camera.matrix_world.translation
    way = point - start
    hit, met, *_ = scene.ray_cast(bpy.context.evaluated_depsgraph_get(), start, way)
    # The ray ends on the surface itself: rounding decides on which side of it.
    free = not hit or (met - start).length > way.length * (1 - 1e-3)
    seen = depth > 0 and 0 <= right < 1 and 0 < up <= 1 and free
    return right * scene.render.resolution_x, (1 - up) * scene.render.resolution_y, seen
