"""VLyard's own wordings of questions: a table, by what is asked for and in which language.

The first of each is what is asked when a picture is asked about once. To word a question in one more way, add a line.
Placeholders as in users' templates: `{class}` for one class, `{classes}` for all.
"""

from collections.abc import Mapping
from typing import Literal

Language = Literal["en", "zh"]

DEFAULT_PROMPT = (
    "Locate all objects in this image and output the bbox coordinates in JSON format using relative "
    "coordinates in the range [0, 1000]."
)

_ALL_BOXES: Mapping[Language, tuple[str, ...]] = {
    "en": (
        DEFAULT_PROMPT,
        "Detect every object in this image. Answer with a JSON list that gives each object's bbox_2d, in relative "
        "coordinates from 0 to 1000, and its label.",
        "Find all objects in the picture and report their bounding boxes and labels as JSON, with coordinates "
        "relative to the picture's size, in the range [0, 1000].",
        "Which objects does this image show, and where? Output the bbox_2d and the label of each in JSON format; "
        "coordinates are relative, from 0 to 1000.",
        "Draw a bounding box around every object: return JSON with bbox_2d as [x1, y1, x2, y2] in thousandths of the "
        "image's width and height, and a label.",
    ),
    "zh": (
        "请定位图中的所有目标，并以JSON格式输出其边界框坐标，坐标为[0, 1000]范围内的相对坐标。",
        "检测这张图片中的每一个目标，用JSON列表给出每个目标的bbox_2d（0到1000的相对坐标）和label。",
        "找出图片中的全部物体，以JSON格式报告它们的边界框和类别，坐标相对于图片尺寸，范围为[0, 1000]。",
        "图中有哪些物体，分别在什么位置？请以JSON格式输出每个物体的bbox_2d和label，坐标为0到1000的相对坐标。",
        "请用边界框标出每个物体：返回JSON，其中bbox_2d为[x1, y1, x2, y2]，以图片宽高的千分之一为单位，并给出label。",
    ),
}

_CLASSES_BOXES: Mapping[Language, tuple[str, ...]] = {
    "en": (
        "Locate every object of these classes: {classes}. Output the bbox coordinates in JSON format using relative "
        "coordinates in the range [0, 1000].",
        "Detect all {classes} in this image. Answer with a JSON list that gives each object's bbox_2d, in relative "
        "coordinates from 0 to 1000, and its label.",
        "Find whatever the picture shows of the following: {classes}. Report bounding boxes and labels as JSON, with "
        "coordinates relative to the picture's size, in the range [0, 1000].",
        "Where in this image are objects of the classes {classes}? Output the bbox_2d and the label of each in JSON "
        "format; coordinates are relative, from 0 to 1000.",
    ),
    "zh": (
        "请定位图中属于以下类别的所有目标：{classes}。以JSON格式输出边界框坐标，坐标为[0, 1000]范围内的相对坐标。",
        "检测这张图片中的所有{classes}，用JSON列表给出每个目标的bbox_2d（0到1000的相对坐标）和label。",
        "在图片中寻找以下类别的物体：{classes}。以JSON格式报告边界框和类别，坐标相对于图片尺寸，范围为[0, 1000]。",
        "图中{classes}分别在什么位置？请以JSON格式输出每个物体的bbox_2d和label，坐标为0到1000的相对坐标。",
    ),
}

_EACH_BOXES: Mapping[Language, tuple[str, ...]] = {
    "en": (
        "Locate every {class} in this image and output the bbox coordinates in JSON format using relative coordinates "
        "in the range [0, 1000].",
        "Detect all instances of {class}. Answer with a JSON list that gives the bbox_2d of each, in relative "
        "coordinates from 0 to 1000, and its label; the list is empty where there is none.",
        "Find each {class} in the picture and report bounding boxes as JSON, with coordinates relative to the "
        "picture's size, in the range [0, 1000].",
        "Does this image show any {class}, and where? Output the bbox_2d and the label of each in JSON format; "
        "coordinates are relative, from 0 to 1000.",
    ),
    "zh": (
        "请定位图中的所有{class}，并以JSON格式输出其边界框坐标，坐标为[0, 1000]范围内的相对坐标。",
        "检测图片中的每一个{class}，用JSON列表给出其bbox_2d（0到1000的相对坐标）和label；如果没有，则输出空列表。",
        "找出图片中的全部{class}，以JSON格式报告边界框，坐标相对于图片尺寸，范围为[0, 1000]。",
        "图中有{class}吗，在什么位置？请以JSON格式输出每个的bbox_2d和label，坐标为0到1000的相对坐标。",
    ),
}

_ALL_POINTS: Mapping[Language, tuple[str, ...]] = {
    "en": (
        "Point to all objects in this image and output the point_2d coordinates in JSON format using relative "
        "coordinates in the range [0, 1000].",
        "Give a point for every object in the picture: a JSON list with point_2d, in relative coordinates from 0 to "
        "1000, and a label.",
        "Where are the objects in this image? Answer with points as JSON: point_2d as [x, y] in thousandths of the "
        "image's width and height, and the label.",
    ),
    "zh": (
        "请用点标出图中的所有目标，并以JSON格式输出point_2d坐标，坐标为[0, 1000]范围内的相对坐标。",
        "为图片中的每个物体给出一个点：用JSON列表输出point_2d（0到1000的相对坐标）和label。",
        "图中的物体在哪里？请以JSON格式用点回答：point_2d为[x, y]，以图片宽高的千分之一为单位，并给出label。",
    ),
}

_CLASSES_POINTS: Mapping[Language, tuple[str, ...]] = {
    "en": (
        "Point to every object of these classes: {classes}. Output the point_2d coordinates in JSON format using "
        "relative coordinates in the range [0, 1000].",
        "Give points for all {classes} in the picture: a JSON list with point_2d, in relative coordinates from 0 to "
        "1000, and a label.",
        "Where in this image are objects of the classes {classes}? Answer with points as JSON: point_2d as [x, y] in "
        "thousandths of the image's width and height, and the label.",
    ),
    "zh": (
        "请用点标出图中以下类别的所有目标：{classes}。以JSON格式输出point_2d坐标，坐标为[0, 1000]范围内的相对坐标。",
        "为图片中的所有{classes}给出点：用JSON列表输出point_2d（0到1000的相对坐标）和label。",
        "图中{classes}在哪里？请以JSON格式用点回答：point_2d为[x, y]，以图片宽高的千分之一为单位，并给出label。",
    ),
}

_EACH_POINTS: Mapping[Language, tuple[str, ...]] = {
    "en": (
        "Point to every {class} in this image and output the point_2d coordinates in JSON format using relative "
        "coordinates in the range [0, 1000].",
        "Give points for all instances of {class}: a JSON list with point_2d, in relative coordinates from 0 to 1000, "
        "and a label; the list is empty where there is none.",
        "Does this image show any {class}, and where? Answer with points as JSON: point_2d as [x, y] in thousandths "
        "of the image's width and height, and the label.",
    ),
    "zh": (
        "请用点标出图中的所有{class}，并以JSON格式输出point_2d坐标，坐标为[0, 1000]范围内的相对坐标。",
        "为图片中的每一个{class}给出点：用JSON列表输出point_2d（0到1000的相对坐标）和label；如果没有，则输出空列表。",
        "图中有{class}吗，在哪里？请以JSON格式用点回答：point_2d为[x, y]，以图片宽高的千分之一为单位，并给出label。",
    ),
}

OWN: Mapping[tuple[str, str], Mapping[Language, tuple[str, ...]]] = {  # by the options `ask` and `targets`
    ("all", "boxes"): _ALL_BOXES,
    ("classes", "boxes"): _CLASSES_BOXES,
    ("each", "boxes"): _EACH_BOXES,
    ("all", "points"): _ALL_POINTS,
    ("classes", "points"): _CLASSES_POINTS,
    ("each", "points"): _EACH_POINTS,
}

BETWEEN: Mapping[Language, str] = {"en": ", ", "zh": "、"}  # the names of classes

# What a question for some of the objects adds. The numbering is one that the picture itself decides, so that nobody
# who answers has to guess which objects are meant. By what is counted first, and language.
PART: Mapping[tuple[str, Language], str] = {
    ("position", "en"): " Count them from top to bottom, and from left to right in a row. This is part {part} of "
    "{parts}: give only numbers {first} to {last}.",
    ("size", "en"): " Count them from the largest to the smallest. This is part {part} of {parts}: give only numbers "
    "{first} to {last}.",
    (
        "position",
        "zh",
    ): "请按从上到下、同一行从左到右的顺序编号。这是第{part}部分，共{parts}部分：只输出第{first}到第{last}个。",
    ("size", "zh"): "请按面积从大到小编号。这是第{part}部分，共{parts}部分：只输出第{first}到第{last}个。",
}
