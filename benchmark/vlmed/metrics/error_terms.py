"""The words by which wrong answers are told apart: our own small tables of anatomy, findings and imaging, in English.

A text becomes a list of terms: its tokens in normal form (`text.normalise`), where the longest run of tokens that a
table knows becomes one term, and all names of one thing become the same one. A term has a kind (`organ`, `modality`,
...), and an organ or finding has others above it: what it is a part of, or an instance of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache

from vlmed.metrics.text import tokens

# Each line: a term, then after `=` other names of it; long lists take several lines. Plurals in -s need no entry.
_MODALITIES = """
x ray = xray, radiograph, film, chest film, radiography, plain film, plain radiograph, roentgenogram, cxr
ct = computed tomography, cat, computed tomographic, cect
mri = mr, magnetic resonance imaging, magnetic resonance
ultrasound = ultrasonography, sonography, sonogram, us
pet = positron emission tomography
angiogram = angiography
fluoroscopy
mammogram = mammography
t1 = t1 weighted, t1w
t2 = t2 weighted, t2w
flair = fluid attenuated inversion recovery
dwi = diffusion weighted imaging, diffusion weighted, diffusion
adc
"""
_PLANES = """
axial = transverse, horizontal, cross sectional, transaxial
coronal = frontal plane, frontal view
sagittal
pa = posteroanterior, posterior anterior, postero anterior
ap = anteroposterior, anterior posterior, antero posterior
lateral view = lateral projection
oblique
"""
_COLOURS = """
black = dark
white = bright
gray = grey
red
blue
green
yellow
"""
_SIGNALS = """
hyperdense = high density, high attenuation, more dense, increased density
hyperdense = hyperattenuating, hyperattenuated, dense, hyper dense, radiopaque
hypodense = low density, low attenuation, less dense, decreased density
hypodense = hypoattenuating, hypoattenuated, hypo dense, radiolucent
isodense
hyperintense = high signal, hyperintensity, high intensity, high signal intensity, bright signal
hypointense = low signal, hypointensity, low intensity, low signal intensity, dark signal
isointense
"""
_SHAPES = """
circular = round, circle, spherical, rounded
oval = elliptical, ovoid, ellipse, egg shaped
irregular = lobulated
crescent = crescentic, crescent shaped
lens shaped = lenticular, biconvex
triangular = wedge shaped, wedge
linear
"""
_SIDES = """
left = left sided
right = right sided
bilateral = both, both sides, bilaterally, both lungs, left and right
upper = superior, top, above, apical, apex
lower = inferior, bottom, below, basal, base
anterior = front, ventral
posterior = back, dorsal, behind
medial = central, centre, center, middle, midline
lateral = peripheral, periphery
"""
_COUNTS = """
none = no
single = solitary
several = multiple, many, numerous, couple, few, various
"""
_SEXES = """
female = woman
male = man
"""
# Each line: a term, what it is a part of after `<`, other names after `=`.
_ORGANS = """
head = skull, cranium
nervous system < head = central nervous system, cns, neurological system
brain < nervous system, head = cerebrum, intracranial
hemisphere < brain = cerebral hemisphere
frontal lobe < hemisphere
parietal lobe < hemisphere
occipital lobe < hemisphere
temporal lobe < hemisphere
temporal horn < temporal lobe, ventricle
basal ganglia < brain = deep grey nuclei, deep gray nuclei
caudate < basal ganglia = caudate nucleus
thalamus < brain = thalami
cerebellum < brain = cerebellar
cerebellopontine angle < brain = cpa
brainstem < brain = brain stem
pons < brainstem
ventricle < brain = lateral ventricle
sulcus < brain = sulci
corpus callosum < brain
eye < head = eyeball, orbit, globe
sinus < head
neck
larynx < neck, respiratory system
thyroid < neck
chest = thorax, thoracic
lung < chest, respiratory system = pulmonary, pulmonary tissue, lung field
upper lobe < lung
lower lobe < lung
middle lobe < lung
trachea < neck, chest, respiratory system
bronchus < lung = bronchi
pleura < chest = pleural space
heart < chest, circulatory system = cardiac
aorta < circulatory system = aortic
mediastinum < chest
diaphragm < chest = hemidiaphragm
breast < chest
rib < chest
esophagus < chest, digestive system = oesophagus
respiratory system = respiratory
circulatory system = cardiovascular system, vascular
digestive system = gi, gi tract, gastrointestinal, gastrointestinal tract, gastrointestinal system, gi system
abdomen = abdominal, belly
liver < abdomen, digestive system = hepatic
gallbladder < abdomen, digestive system
bile duct < abdomen, digestive system
pancreas < abdomen, digestive system = pancreatic
spleen < abdomen = splenic
stomach < abdomen, digestive system = gastric
bowel < abdomen, digestive system = intestine, bowel loop, gut
small bowel < bowel = small intestine
duodenum < small bowel
ileum < small bowel
jejunum < small bowel
colon < bowel = large bowel, large intestine
cecum < colon = caecum
appendix < cecum
sigmoid < colon = sigmoid colon
rectum < colon, pelvis
kidney < abdomen, urinary system = renal
adrenal < abdomen = adrenal gland
omentum < abdomen = greater omentum
peritoneum < abdomen
urinary system
bladder < pelvis, urinary system
pelvis = pelvic
uterus < pelvis
prostate < pelvis
ovary < pelvis
femoral head < pelvis = femur head
spine = vertebra, vertebrae, vertebral, spinal column
spinal cord < spine, nervous system
humerus = humerus head, humeral head
fat = adipose tissue, adipose, fatty tissue
muscle
bone
lymph node
"""
_FINDINGS = """
lesion = abnormality
mass < lesion = space occupying lesion
tumor < mass = tumour, neoplasm
cancer < tumor = malignancy, carcinoma, malignant tumor
metastasis < cancer = metastases, metastatic
nodule < lesion
cyst < lesion = cystic
abscess < lesion
effusion
pleural effusion < effusion = hydrothorax
pneumonia < lesion = infiltrate, infiltration
pneumothorax
atelectasis = volume loss, collapse
edema = oedema, swelling
hemorrhage = haemorrhage, bleeding, bleed
hematoma < hemorrhage = haematoma
epidural hematoma < hematoma, hemorrhage = epidural hemorrhage, extradural hematoma, extradural hemorrhage
subdural hematoma < hematoma, hemorrhage = subdural hemorrhage, subdural bleeding
infarct = infarction, stroke
fracture = broken, break
calcification
stone = calculus, calculi, kidney stone, gallstone
cardiomegaly = enlarged heart, heart enlargement, heart is enlarged
cardiomegaly = enlarged cardiac silhouette, enlarged cardiac shadow
consolidation = opacity, opacities, opacification
emphysema = hyperinflation
fibrosis
bronchiectasis = dilated bronchi, bronchial dilatation
hernia
aneurysm
stenosis
free air < lesion = pneumoperitoneum, extraluminal air
"""
_TABLES = {
    "modality": _MODALITIES,
    "plane": _PLANES,
    "colour": _COLOURS,
    "signal": _SIGNALS,
    "shape": _SHAPES,
    "side": _SIDES,
    "count": _COUNTS,
    "sex": _SEXES,
    "organ": _ORGANS,
    "finding": _FINDINGS,
}
_UNITS = frozenset(("mm", "cm", "ml"))
# The highest parts of a body: what lies in one of them does not lie in another.
_REGIONS = frozenset(("head", "neck", "chest", "abdomen", "pelvis"))
OPPOSITES = frozenset(
    frozenset(pair) for pair in (
        ("left", "right"), ("upper", "lower"), ("anterior", "posterior"), ("medial", "lateral"),
        ("left", "bilateral"), ("right", "bilateral"),
    )
)  # fmt: skip
# Words that say nothing by themselves, in answers and questions.
_FILLERS = """
of in on at to is are was were be it its this that there and or with for by as from show shown shows see seen
image picture scan photo answer plane side part lobe field region area i can patient appear look like type kind
located location present visible into within has have do doe did any system study weighted view section
which what where how contain exist body human evidence observed identified which finding
"""
FILLERS = frozenset(_FILLERS.split())


def terms(text: str) -> list[str]:
    """The terms of a text in their order, without fillers.

    >>> terms("Hydrothorax in the right lungs")
    ['pleural effusion', 'right', 'lung']
    """
    return [term for term in _read([_singular(token) for token in tokens(text)]) if term not in FILLERS]


def kinds(found: list[str]) -> set[str]:
    """The kinds of terms: those of the tables, `count` for a number, `size` for one with a unit, `polar` for yes or no.

    >>> sorted(kinds(["right", "kidney", "2"]))
    ['count', 'organ', 'side']
    """
    known = {kind for term in found if (kind := _kinds().get(term))}
    if any(term.replace(".", "").isdigit() for term in found):
        known.add("size" if _UNITS.intersection(found) else "count")
    return known | {"polar" for term in found[:1] if term in ("yes", "none")}


def above(term: str) -> frozenset[str]:
    """Everything that a term is a part or an instance of, over any number of steps, without itself.

    >>> sorted(above("cecum"))
    ['abdomen', 'bowel', 'colon', 'digestive system']
    """
    reached: set[str] = set()
    nodes = [term]
    while nodes:
        nodes += new if (new := [up for up in _parents().get(nodes.pop(), ()) if up not in reached]) else ()
        reached.update(new)
    return frozenset(reached)


def regions(found: list[str]) -> frozenset[str]:
    """The regions of the body that terms lie in; empty where no term tells.

    >>> sorted(regions(["left", "kidney"]))
    ['abdomen']
    """
    return frozenset(_REGIONS & {place for term in found for place in (term, *above(term))})


def _singular(token: str) -> str:
    return (
        token[:-1]
        if len(token) > 3 and token.endswith("s") and token[-2] not in "su" and token not in _PLAIN
        else token
    )


_PLAIN = frozenset(
    ("pelvis", "metastasis", "stenosis", "fibrosis", "atelectasis", "bronchiectasis", "pancreas", "axis", "basis")
)


def _read(found: list[str]) -> Iterator[str]:
    place = 0
    while place < len(found):
        length = next((size for size in (4, 3, 2, 1) if tuple(found[place : place + size]) in _names()), 0)
        yield _names()[tuple(found[place : place + length])] if length else found[place]
        place += length or 1


def _lines() -> Iterator[tuple[str, str, list[str], list[str]]]:
    """Kind, term, what stands above it and its other names, for each line of each table."""
    for kind, table in _TABLES.items():
        for line in table.strip().splitlines():
            rest, _, names = line.partition("=")
            term, _, parents = rest.partition("<")
            yield kind, term.strip(), _split(parents), _split(names)


def _split(listed: str) -> list[str]:
    return [name.strip() for name in listed.split(",") if name.strip()]


@cache
def _names() -> Mapping[tuple[str, ...], str]:
    return {tuple(map(_singular, tokens(name))): term for _, term, _, names in _lines() for name in (term, *names)}


@cache
def _kinds() -> Mapping[str, str]:
    return {term: kind for kind, term, _, _ in _lines()}


@cache
def _parents() -> Mapping[str, list[str]]:
    return {term: parents for _, term, parents, _ in _lines()}
