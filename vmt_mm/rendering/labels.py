"""Names, indices and colours of the labels that the renderer writes."""

_CLASSES = dict(
    background=(60, 60, 60),
    box=(214, 122, 44),
    ball=(66, 170, 222),
    cylinder=(92, 184, 92),
    cone=(232, 205, 64),
    table=(150, 100, 60),
    lamp=(240, 240, 200),
    person=(206, 62, 120),
)
CLASSES, PALETTE = tuple(_CLASSES), list(_CLASSES.values())
BACKGROUND, BOX, BALL, CYLINDER, CONE, TABLE, LAMP, PERSON = range(len(CLASSES))

_PARTS = dict(
    background=(0, 0, 0),
    head=(228, 60, 60),
    torso=(66, 110, 220),
    upper_arm=(245, 160, 50),
    lower_arm=(250, 225, 80),
    upper_leg=(70, 180, 110),
    lower_leg=(150, 90, 200),
)
PART_CLASSES, PART_PALETTE = tuple(_PARTS), list(_PARTS.values())
NO_PART, HEAD, TORSO, UPPER_ARM, LOWER_ARM, UPPER_LEG, LOWER_LEG = range(len(PART_CLASSES))
