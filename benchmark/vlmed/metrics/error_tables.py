"""The words that error classes know: our own small tables of anatomy, findings and imaging, in English.

Each line is a term; after `<` what it is a part or an instance of; after `=` other names of it, and long lists take
several lines. Names are read as `error_terms` reads all text, so that plurals, British spellings and other endings of
a word need no entry.
"""

# Each line: a term, then after `=` other names of it; long lists take several lines. Plurals in -s need no entry.
_MODALITIES = """
radiology = radiological, medical imaging, diagnostic imaging
tomography < radiology = cross sectional imaging, tomogram
x ray < radiology = xray, radiograph, film, chest film, radiography, plain film, plain radiograph, roentgenogram, cxr
x ray < radiology = kub, roentgen, radiogram, plain x ray
ct < tomography = computed tomography, computerized tomography, computer tomography, cat, ct scan, cect, ncct, hrct
ct < tomography = computerized axial tomography, computed axial tomography
mri < tomography = mr, nmr, magnetic resonance imaging, magnetic resonance
ultrasound < radiology = ultrasonography, sonography, sonogram, sonographic, us
pet < radiology = positron emission tomography
angiogram < radiology = angiography, cta, mra
fluoroscopy < radiology
mammogram < radiology = mammography
t1 < mri = t1 weighted, t1w, t1wi
t2 < mri = t2 weighted, t2w, t2wi
flair < mri = fluid attenuated inversion recovery
dwi < mri = diffusion weighted imaging, diffusion weighted, diffusion imaging, diffusion mri
adc < mri = apparent diffusion coefficient
"""
_PLANES = """
axial = transverse, transversal, horizontal, cross sectional, cross section, transaxial
coronal = frontal plane, frontal view, frontal section
sagittal
pa = posteroanterior, posterior anterior, postero anterior
ap = anteroposterior, anterior posterior, antero posterior
lateral view = lateral projection
oblique
"""
_COLOURS = """
black = dark, darker
white = bright, brighter, light
gray = grayish
red
blue
green
yellow
brown
pink
purple
"""
_SIGNALS = """
hyperdense = higher density, higher attenuation, more attenuation, high density
hyperdense = high attenuation, more dense, increased density
hyperdense = hyperattenuating, hyperattenuated, dense, hyper dense, hyperdensity, radiopaque, opaque, denser
hypodense = lower density, lower attenuation, less attenuation, low density
hypodense = low attenuation, less dense, decreased density
hypodense = hypoattenuating, hypoattenuated, hypo dense, hypodensity, radiolucent, lucent, lucency
isodense = iso dense, isoattenuating, same density
hyperintense = higher signal, high signal, hyperintensity, hyper intense, increased signal, high intensity
hyperintense = high signal intensity, bright signal
hypointense = lower signal, low signal, hypointensity, hypo intense, decreased signal, reduced signal, low intensity
hypointense = low signal intensity, dark signal
isointense = iso intense, same signal
"""
_SHAPES = """
circular = round, circle, spherical, sphere, ball, ball shaped, ring, ring shaped, globular
oval = elliptical, ovoid, oval shaped, ellipse, ellipsoid, egg shaped, egg
irregular = lobulated, lobular, not regular, asymmetrical shape
regular
crescent = crescentic, crescent shaped
lens shaped = lenticular, biconvex
triangular = wedge shaped, wedge
linear = straight
"""
_SIDES = """
left = left sided, left hand
right = right sided, right hand
bilateral = both, both sides, both lungs, left and right, right and left, on each side, each side
upper = superior, top, above, apical, apex
lower = inferior, bottom, below, basal, base
anterior = front, ventral
posterior = back, dorsal, behind
medial = central, centre, center, middle, midline
lateral = peripheral, periphery
superficial = on surface, at surface, surface
"""
_COUNTS = """
none = no
single = solitary, only 1, lone
several = multiple, many, numerous, couple, few, plural, more than 1
"""
_SEXES = """
female = woman, girl, lady
male = man, boy, gentleman
"""
# Each line: a term, what it is a part of after `<`, other names after `=`.
_ORGANS = """
head = cranial
skull < head = cranium, calvarium, skull bone
nervous system < head = central nervous system, cns, neurological system
brain < nervous system, head = encephalon, intracranial
cerebrum < brain = cerebral
hemisphere < cerebrum = cerebral hemisphere
frontal lobe < hemisphere
parietal lobe < hemisphere
occipital lobe < hemisphere
temporal lobe < hemisphere
temporal horn < temporal lobe, ventricle
posterior fossa < brain
deep gray matter < brain
basal ganglia < deep gray matter = deep grey nuclei, deep gray nuclei
caudate < basal ganglia = caudate nucleus
thalamus < deep gray matter = thalami
cerebellum < posterior fossa = cerebellar
cerebellopontine angle < posterior fossa = cpa
brainstem < brain = brain stem
pons < brainstem
ventricle < brain = lateral ventricle
sulcus < brain = sulci
corpus callosum < brain
eye < head = eyeball, orbit, orbital, globe, ocular
sinus < head
neck
larynx < neck, respiratory system
thyroid < neck
chest = thorax, thoracic
lung < chest, respiratory system = pulmonary, pulmonary tissue, lung field, lung parenchyma, pulmonary parenchyma
upper lobe < lung
lower lobe < lung
middle lobe < lung
trachea < neck, chest, respiratory system = windpipe
bronchus < lung = bronchi
pleura < chest = pleural space, pleural cavity
heart < chest, circulatory system = cardiac
aorta < circulatory system = aortic
mediastinum < chest
diaphragm < chest = hemidiaphragm
breast < chest
rib < chest
esophagus < chest, digestive system = gullet
respiratory system = respiratory, respiratory tract
circulatory system = cardiovascular system, cardiovascular, vascular
digestive system = gi, gi tract, gastrointestinal, gastrointestinal tract, gastrointestinal system, gi system
abdomen = abdominal, belly
liver < abdomen, digestive system = hepatic, hepatic parenchyma
gallbladder < abdomen, digestive system = gall bladder, gb
bile duct < abdomen, digestive system = biliary duct, biliary tree
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
urinary system = urinary tract, renal system, genitourinary system
bladder < pelvis, urinary system = urinary bladder
pelvis = pelvic
uterus < pelvis
prostate < pelvis
ovary < pelvis
femoral head < pelvis = femur head
spine = backbone, spinal, vertebra, vertebrae, vertebral, spinal column
spinal cord < spine, nervous system
humerus = humerus head, humeral head
fat = adipose tissue, adipose, fatty tissue
muscle
bone = bony, osseous, skeletal
lymph node = lymphatic
"""
_FINDINGS = """
lesion = abnormality, focus, foci
mass < lesion = space occupying lesion, lump, growth
tumor < mass = neoplasm, neoplastic
hepatocellular carcinoma < cancer, liver = hcc, hepatoma
renal cell carcinoma < cancer, kidney = rcc
glioblastoma < cancer, brain = gbm, glioblastoma multiforme
cancer < tumor = malignancy, carcinoma, malignant tumor, malignant neoplasm
metastasis < cancer = metastases, metastatic disease, secondary deposit, secondaries
glioma < tumor
meningioma < tumor
adenoma < tumor
nodule < lesion = nodular opacity, nodular
cyst < lesion = cystic lesion, fluid filled, fluid filled lesion, fluid collection
abscess < lesion = pus collection
effusion
pleural effusion < effusion = hydrothorax
pericardial effusion < effusion
ascites = free fluid, abdominal fluid
pneumonia < lesion = infiltrate, lung infiltration, lung infection, pulmonary infection, chest infection, pneumonic
pneumothorax = collapsed lung
hydropneumothorax
steatosis = fatty infiltration, fatty liver, fatty change
cholecystitis
appendicitis
cerebrospinal fluid = csf
atelectasis = volume loss, collapse
edema = swelling, swollen
pulmonary edema < edema = fluid overload, lung edema
hemorrhage = bleeding, bleed
hematoma < hemorrhage = blood collection
epidural hematoma < hematoma, hemorrhage = epidural hemorrhage, extradural hematoma, extradural hemorrhage, edh
subdural hematoma < hematoma, hemorrhage = subdural hemorrhage, subdural bleeding, sdh
subarachnoid hemorrhage < hemorrhage = subarachnoid bleeding, sah
infarct = infarction, stroke, cva, ischemic stroke, cerebrovascular accident
ischemia = ischemic
fracture = broken, break
calcification = calcified, calcium deposit
stone = calculus, calculi, kidney stone, renal stone, renal calculus, gallstone, nephrolithiasis, cholelithiasis
cardiomegaly = enlarged heart, heart enlargement, cardiac enlargement, enlargement of heart
cardiomegaly = enlarged cardiac silhouette, enlarged cardiac shadow, big heart, large heart
hepatomegaly = enlarged liver, liver enlargement
splenomegaly = enlarged spleen, spleen enlargement
lymphadenopathy = enlarged lymph node, swollen lymph node, adenopathy
hydrocephalus = enlarged ventricle, dilated ventricle, ventriculomegaly
hydronephrosis = dilated renal pelvis, dilated collecting system
consolidation = opacity, opacities, opacification, airspace disease
emphysema = hyperinflation, hyperinflated, copd
fibrosis = fibrotic, scarring
bronchiectasis = dilated bronchi, bronchial dilatation
hernia = herniation
aneurysm
stenosis = narrowing, stricture
obstruction = blockage, blocked
free air < lesion = pneumoperitoneum, extraluminal air
air = gas
inflammation = inflammatory, inflamed
infection = infectious
feces = stool, excrement
respiration = breathe, breathing, gas exchange, exchange of oxygen, oxygenation, oxygen exchange
digestion = digest food, break down food, absorb nutrient
circulation = pump blood, blood supply, blood flow
excretion = excrete urine, filter blood, make urine, produce urine, urine production
vision = sight, eyesight
"""
# Each table: attributes that exclude one another, unless one stands above the other.
ATTRIBUTES = (
    """
abnormal = not normal, pathological, diseased, wrong
enlarged < abnormal = dilated, distended, big, large, larger, increased in size, widened, wide
small < abnormal = shrunken, reduced in size, atrophic, decreased in size, smaller, little, tiny
normal = unremarkable, healthy, clear, not abnormal, within normal limits, not enlarged
""",
    """
well defined = sharp, circumscribed, well circumscribed, distinct, clearly defined, sharply defined, well demarcated
ill defined = blurred, blurry, indistinct, poorly defined, fuzzy, vague, hazy, not well defined, poorly demarcated
""",
    """
homogeneous = homogenous, uniform, not heterogeneous
heterogeneous = varied, mixed, inhomogeneous, not homogeneous, not uniform, heterogenous, variable
""",
    """
supine = lying on back, on back
prone = face down
upright = standing, erect, sitting
""",
    """
diffuse = widespread, generalized, scattered, spread out
focal = localized, local, discrete
""",
    """
partial = partly, incomplete, not complete
complete = total, entire, full
""",
    """
simple
complex = complicated
""",
    """
thick = thickened
thin
""",
    """
intact = not broken, not ruptured
ruptured = torn
""",
    """
acute = early, recent, new
chronic = late, longstanding
""",
    """
benign = not malignant
malignant = not benign
""",
    """
symmetric = symmetrical
asymmetric = asymmetrical, not symmetric
""",
)
TABLES = {
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
# A signal as a reader of a grey image would call it.
SHADES = {
    **dict.fromkeys(("hyperdense", "hyperintense"), "white"),
    **dict.fromkeys(("hypodense", "hypointense"), "black"),
    **dict.fromkeys(("isodense", "isointense"), "gray"),
}
UNITS = frozenset(("mm", "cm", "ml"))
# The highest parts of a body: what lies in one of them does not lie in another.
REGIONS = frozenset(("head", "neck", "chest", "abdomen", "pelvis"))
OPPOSITES = frozenset(
    frozenset(pair) for pair in (
        ("left", "right"), ("upper", "lower"), ("anterior", "posterior"), ("medial", "lateral"),
        ("left", "bilateral"), ("right", "bilateral"),
    )
)  # fmt: skip
# What a term is made of, so that a compound and its description meet: each line a term and, after `:`, its parts.
COMPOUNDS = """
pleural effusion: fluid, pleura
pneumothorax: air, pleura
hydropneumothorax: fluid, air, pleura
pericardial effusion: fluid, pericardium
ascites: fluid, peritoneum
cardiomegaly: heart, enlarged
hepatomegaly: liver, enlarged
splenomegaly: spleen, enlarged
lymphadenopathy: lymph node, enlarged
hydrocephalus: ventricle, enlarged
bronchiectasis: bronchus, enlarged
cholecystitis: gallbladder, inflammation
appendicitis: appendix, inflammation
pneumonia: lung, infection
steatosis: liver, fat
"""
# A word that only denies another.
DENIALS = """
not = non, without, never, lack of, lacking, absence of, absent
"""
# These name a thing without saying which.
GENERIC = frozenset(("lesion",))
# Words that part others without changing what these mean together.
SILENT = frozenset(("is", "are", "look", "looks", "appear", "appears", "seem", "seems", "be", "very", "slightly"))
# Words that say nothing by themselves, in answers and questions.
FILLERS = """
of in on at to is are was were be it its this that there and or with for by as from show shown shows see seen
image imaging picture scan sequence slice section cut lie lies structure tissue zone portion photo answer plane
side part lobe field region area i can patient appear look like type kind located location present visible into
within has have do doe did any system study weighted view section which what where how contain exist body human
evidence observed identified finding presence appearance very most some likely probably about used slightly
mainly they them these those being been shape shaped color
"""
