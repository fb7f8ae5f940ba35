"""Answers in free text: the table of what is parsed as what."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmed.metrics.answers import parse_closed, parse_open
from vlmed.metrics.polar import polarity
from vlmed.metrics.text import normalise, spoken, tokens

YES_NO = ("yes", "no")

YES = [
    "yes",
    "Yes.",
    " YES!! ",
    "**Yes**",
    "“Yes”",
    "yes\n",
    "- Yes",
    "1. Yes",
    "ｙｅｓ",
    "Y",
    "yeah",
    "True.",
    "Correct",
    "Present",
    "Yes, there is a mass.",
    "Yes - a mass",
    "Yes: a mass is seen",
    "Yes. No other abnormality is seen.",
    "Yes, there is no effusion.",
    "Yes, it may be malignant.",
    "Yes, likely pneumonia.",
    "Yes, the mass measures 5.2 cm, with no calcification.",
    "Yes yes yes yes",
    "Yes, there is a mass. It cannot be determined whether it is malignant.",
    "Yes, but I am not sure about its origin.",
    "Well, yes.",
    "Based on the image, yes.",
    "In conclusion, yes, there is a fracture",
    "I think yes",
    "I believe that there is a mass.",
    "Is there a mass? Yes.",
    "Assistant: Yes",
    "A: Yes",
    "There is a mass in the left lung.",
    "There are multiple nodules",
    "There appears to be a fracture",
    "In this image there is a mass",
    "It is.",
    "It does",
    "They are",
    "The mass is clearly present.",
    "A fracture can be seen in the tibia.",
    "A nodule has been identified",
    "A lesion was definitely seen",
    "Answer: yes",
    "The answer is yes.",
    "The final answer is: **Yes**",
    "The correct answer would be yes",
    '{"answer": "yes"}',
    r"The heart is large. \boxed{Yes}",
    "No effusion is seen, no mass. However, the answer is yes.",
    "The lungs show an opacity.\n\nConclusion: Yes, pneumonia",
    "The image is a chest X-ray. Yes, the heart is enlarged. Yes",
    "<think>No, hmm, no. Maybe yes.</think>Yes",
    "Yes\nQuestion: Is there a fracture?\nAnswer: No",
    "Yes\n\nUser: And the liver?\nAssistant: No",
    "Yes</s> No",
    "Yes<|im_end|>no",
    "Yes\n### Instruction: no",
    "是",
    "是的。",
    "是的，图中有肿块",
    "有",
    "有肿块",
    "存在",
    "包含",
    "可以",
    "图像中有骨折。",
    "这张图片显示有肺炎",
    "答案是：是的",
    "因此，是的",
    "根据图像，是的",
    "对",
    "正确",
]

NO = [
    "no",
    "No.",
    "NO",
    "nope",
    "N",
    "Not.",
    "False",
    "Absent.",
    "None",
    "None.",
    "No, there is no evidence of pneumonia.",
    "No, it is normal.",
    "No evidence of pneumothorax",
    "No evidence of a mass. Yesterday's scan was normal.",
    "No acute findings, but small lesions cannot be excluded.",
    "No significant change",
    "Not seen",
    "Not enlarged",
    "Neither lung is affected",
    "Never",
    "Without evidence of fracture",
    "Definitely not",
    "Certainly not",
    "There is not",
    "There is not.",
    "There isn't any.",
    "There isn\u2019t",
    "There is no evidence of fracture.",
    "There are no masses",
    "There does not appear to be a fracture",
    "There appears to be no fracture",
    "It is not",
    "It's not.",
    "That's not present",
    "It doesn't",
    "The heart is not enlarged.",
    "The heart is definitely not enlarged.",
    "The image does not show a fracture",
    "The image shows no fracture.",
    "The lungs don't have any nodules",
    "The patient has no fracture.",
    "A mass can not be seen.",
    "A mass cannot be identified",
    "I do not see a mass",
    "I don't think there is a mass.",
    "I see no mass",
    "We can't see any fracture.",
    "In this image, no fracture is seen.",
    "According to the scan, there is no mass",
    "Is there a mass? No.",
    "Answer: No",
    "The answer is no, since the heart is of normal size.",
    "Yes, a mass is often seen. The answer is no.",
    "The scan is of the chest. No, it is normal.\nNo",
    "No\n\nQ: Is it a CT? A: yes",
    "<think>Yes? Yes!</think>\n\nNo.",
    "否",
    "不是",
    "不是。",
    "没有",
    "没有骨折",
    "不包含",
    "不可以",
    "无",
    "无异常",
    "未见骨折",
    "不存在，图像正常",
    "图中没有肿块",
    "答案：不是",
    "非增强扫描",
]

UNPARSED = [
    "",
    "   \n",
    "...",
    "?",
    "🩻",
    "Yes?",
    "yes and no",
    "Yes or no",
    "Yes/No",
    "Yes, no",
    "Yes. No.",
    "No. Yes, there is.",
    "normal",  # the papers find `no` here
    "The heart is normal.",
    "Known nodule, noncontrast CT, nonspecific nose anomaly",
    "Eyes",
    "yesterday",
    "notable mass",
    "The lungs are clear with no effusion.",
    "The mass is in the left lung",
    "Pneumonia",
    "left",
    "maybe",
    "Maybe yes",
    "Probably not",
    "Possibly. No clear view.",
    "Not sure",
    "I am not sure. No.",
    "Unclear",
    "It cannot be determined from this image.",
    "This can't be determined",
    "No, it is not possible to tell from this image.",
    "No, pneumonia cannot be ruled out.",
    "It is not possible to say",
    "It is unclear whether there is a mass. No other view is given.",
    "It is difficult to assess the lungs.",
    "There may be a mass",
    "There is a possibility of pneumonia.",
    "There is insufficient information",
    "There is not enough information to answer",
    "There is no way to tell",
    "No information is given.",
    "No idea",
    "Not necessarily",
    "Not only the left lung",
    "Not applicable",
    "N/A",
    "I don't know",
    "I do not have access to the image.",
    "I'm sorry, but I can't help with that.",
    "I cannot provide medical advice",
    "As an AI language model, I am not able to view images. No diagnosis is given.",
    "Sorry, no.",
    "The answer is unclear.",
    "The answer is yes or no",
    "Answer:",
    "It may be, it may not be. The image shows no clear sign.",
    "<think>The heart is large, so yes, yes, the answer is yes",
    "Oui",
    "Nein",
    "Нет",
    "B",
    "不确定",
    "无法判断",
    "不能确定",
    "可能有",
    "可能没有肿块",
    "是否有肿块",
    "有没有骨折？",
    "对比增强",
    "能量减低",
    "非常大",
    "肺部",
    "抱歉，我不能回答",
    "是。不是。",
]


@pytest.mark.parametrize("raw", YES)
def test_yes(raw):
    assert parse_closed(raw, YES_NO) == "yes"


@pytest.mark.parametrize("raw", NO)
def test_no(raw):
    assert parse_closed(raw, YES_NO) == "no"


@pytest.mark.parametrize("raw", UNPARSED)
def test_neither_yes_nor_no(raw):
    assert parse_closed(raw, YES_NO) is None


SIDES = ("left", "right", "left lung", "both")
SCANS = ("X-Ray", "CT", "MRI", "5 mm", "10 cm")

CHOICES = [
    ("Left", SIDES, "left"),
    ("The left.", SIDES, "left"),
    ("It is in the left lung.", SIDES, "left lung"),
    ("left lungs", SIDES, "left lung"),
    ("Both", SIDES, "both"),
    ("Both, left and right.", SIDES, "both"),
    ("Left, not right", SIDES, "left"),
    ("On the right rather than on the left", SIDES, "right"),
    ("The right, instead of the left", SIDES, "right"),
    ("It is not on the left. It is on the right.", SIDES, "right"),
    ("The answer is left.", SIDES, "left"),
    ("Left and right are similar. The answer is: right", SIDES, "right"),
    ("I see a mass. It lies on the right. The left is clear.", SIDES, "right"),
    ("left or right", SIDES, None),
    ("left, right", SIDES, "left"),
    ("Neither left nor right", SIDES, None),
    ("bright", SIDES, None),
    ("The mass was leftover", SIDES, None),
    ("", SIDES, None),
    ("yes", SIDES, None),
    ("cannot tell", SIDES, None),
    ("B", SIDES, None),
    ("x ray", SCANS, "X-Ray"),
    ("This is an MRI scan", SCANS, "MRI"),
    ("This is a CT-scan", SCANS, "CT"),
    ("direct CTA", SCANS, None),
    ("CT and MRI", SCANS, None),
    ("about 5mm", SCANS, "5 mm"),
    ("5.0 millimetres", SCANS, "5 mm"),
    ("five millimeters", SCANS, "5 mm"),
    ("5 cm", SCANS, None),
    ("15 mm", SCANS, None),
    ("10cm.", SCANS, "10 cm"),
    ("左侧", ("左侧", "右侧"), "左侧"),
    ("病变在右侧。", ("左侧", "右侧"), "右侧"),
    ("答案是左侧", ("左侧", "右侧"), "左侧"),
    ("左侧和右侧", ("左侧", "右侧"), None),
    ("肝脏", ("左侧", "右侧"), None),
    ("包含", ("包含", "不包含"), "包含"),
    ("没有", ("包含", "不包含"), "不包含"),
    ("No.", ("Yes", "No"), "No"),
    ("maybe", ("yes", "no", "maybe"), "maybe"),
    ("yes", ("yes", "no", "maybe"), "yes"),
    ("normal", ("yes", "no", "maybe"), None),
    ("not sure", ("not sure", "left"), "not sure"),
    ("left", (), None),
]


@pytest.mark.parametrize(("raw", "candidates", "answer"), CHOICES)
def test_choice(raw, candidates, answer):
    assert parse_closed(raw, candidates) == answer


LETTERED = [
    ("B", "right"),
    ("b.", "right"),
    ("(B)", "right"),
    ("**B**", "right"),
    ("B) right", "right"),
    ("B: right", "right"),
    ("B because it is bright", "right"),
    ("Option A", "left"),
    ("The answer is B.", "right"),
    ("The answer is (C)", "left lung"),
    ("The correct option is unclear, but my answer: A", "left"),
    ("答案是B", "right"),
    ("选项 C", "left lung"),
    ("right", "right"),
    ("a mass on the right", "right"),
    ("I see the left lung", "left lung"),
    ("A, B", None),
    ("A and B", None),
    ("B or C", None),
    ("B. left", None),
    ("E", None),
    ("Z", None),
    ("a", "left"),
    ("A mass", None),
    ("Big", None),
]


@pytest.mark.parametrize(("raw", "answer"), LETTERED)
def test_letters(raw, answer):
    assert parse_closed(raw, SIDES, lettered=True) == answer


def test_letters_of_yes_and_no():
    assert parse_closed("The answer is B", ["yes", "no"], lettered=True) == "no"
    assert parse_closed("A. No", ["yes", "no"], lettered=True) is None
    assert parse_closed("No", ["yes", "no"], lettered=True) == "no"


OPEN = [
    ("The Liver.", "liver"),
    ("Answer: the liver", "liver"),
    ("I see a dark area. The answer is: the liver. It is large.", "liver"),
    ("The answer is 5mm", "5 mm"),
    ("The answer is 2.5 cm.", "2.5 cm"),
    ("The answer is edema vs. hemorrhage. Both are bright.", "edema vs hemorrhage"),
    ("The answer is in the valves. They are thick.", "in valves"),
    ("Answer: liver; spleen?\nBoth are large.", "liver spleen"),
    ("Answer: . I see the liver", "answer i see liver"),
    (r"so \boxed{Liver}", "liver"),
    ("答案是肝脏。", "肝 脏"),
    ("<think>the lung</think> liver", "liver"),
    ("liver\nQuestion: Where?\nAnswer: lung", "liver"),
    ("A", "a"),
    ("no idea what it is, an answer", None),
    ("", None),
    ("?!", None),
    ("I'm sorry, I can't help.", None),
    ("As an AI, I can't see images.", None),
    ("It cannot be determined", None),
    ("<think>the liver", None),
]


@pytest.mark.parametrize(("raw", "answer"), OPEN)
def test_open(raw, answer):
    assert parse_open(raw) == answer


NORMAL = [
    ("", ""),
    ("The Liver.", "liver"),
    ("the", "the"),
    ("a", "a"),
    ("X-Ray", "x ray"),
    ("Transverse  Plane", "transverse plane"),
    ("T2-weighted", "t2 weighted"),
    ("L2", "l2"),
    ("isn't", "is not"),
    ("Can\u2019t", "can not"),
    ("patient's skin", "patient skin"),
    ("It's", "it is"),
    ("1,000", "1000"),
    ("1,000,000 mm", "1000000 mm"),
    ("1,00", "1 00"),
    ("5.0", "5"),
    ("5.50", "5.5"),
    (".5", "0.5"),
    ("10", "10"),
    ("3.14.15", "3.14 15"),
    ("5mm", "5 mm"),
    ("2.5cm", "2.5 cm"),
    ("5 millimetres", "5 mm"),
    ("50 percent", "50 %"),
    ("50%", "50 %"),
    ("Two lungs", "2 lungs"),
    ("someone", "someone"),
    ("ﬁbrosis", "fibrosis"),
    ("Ｌｉｖｅｒ", "liver"),
    ("肺，心脏", "肺 心 脏"),
    ("CT扫描", "ct 扫 描"),
    ("heart \tlungs", "heart lungs"),
    ("<b>mass_1</b>", "b mass 1 b"),
]


@pytest.mark.parametrize(("text", "normal"), NORMAL)
def test_normal_form(text, normal):
    assert normalise(text) == normal


@given(st.text(alphabet=st.characters(codec="ascii") | st.sampled_from("肺炎，。５ﬁ’"), max_size=40))
def test_the_normal_form_is_its_own(text):
    assert normalise(normalise(text)) == normalise(text)
    assert tokens(normalise(text)) == tokens(text)


@given(st.text(alphabet="acnotswmm't/. ,0٣５x-\n\u2019"))
def test_what_else_a_text_says_changes_no_word(text):
    """Rules for contractions and numbers are tried only on texts that can have one."""
    found = tokens(f"{text}\nx")
    for more in ("isn't", "7", "isn't 7"):
        assert tokens(f"{text}\nx {more}") == [*found, *tokens(more)]


@given(st.text(max_size=60))
def test_any_text_gets_an_answer_or_none(text):
    assert parse_closed(text, YES_NO) in (*YES_NO, None)
    assert parse_closed(text, SIDES, lettered=True) in (*SIDES, None)
    assert parse_open(text) != ""


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("Yes", "yes"),
        ("no ", "no"),
        ("包含", "yes"),
        ("不包含", "no"),
        ("没有", "no"),
        ("是的", "yes"),
        ("normal", None),
        ("不正常", None),
        ("none", None),
        ("", None),
    ],
)
def test_polarity_of_targets(target, said):
    assert polarity(target) == said


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("Yes", "Yes"),
        ("<think>a</think>b<think>c</think> d ", "d"),
        ("<thinking>a</thinking>b", "b"),
        ("a <think> b", "a"),
        ("Question: a?", "Question: a?"),
        ("b\n  Q1: a?", "b"),
        ("b\n问题：a", "b"),
        ("Quality: good\nquick: yes", "Quality: good\nquick: yes"),
    ],
)
def test_what_was_said(raw, said):
    assert spoken(raw).strip() == said


RAMBLING = [
    ("Yes. " + "The lung is bright and the heart is large. " * 230, "yes"),
    ("The lung is bright and the heart is large. " * 230 + "The answer is no.", "no"),
    ("The lung is bright. " * 500, None),
    ("yes " * 2500, "yes"),
    ("No, " * 2500, "no"),
    ("yes no " * 1400, None),
    ("Yes.\n" + "Question: Is it a CT? Answer: No\n" * 300, "yes"),
]


@pytest.mark.parametrize(("raw", "answer"), RAMBLING)
def test_rambling(raw, answer):
    assert len(raw) > 9000
    assert parse_closed(raw, YES_NO) == answer
