"""Names, indices and colours of the rendered classes."""

# fmt: off
CLASSES = ("background", "box", "ball", "cylinder", "cone", "table", "lamp", "person")
PALETTE = [(60, 60, 60), (214, 122, 44), (66, 170, 222), (92, 184, 92), (232, 205, 64),
           (150, 100, 60), (240, 240, 200), (206, 62, 120)]
PART_CLASSES = ("background", "head", "torso", "upper_arm", "lower_arm", "upper_leg", "lower_leg")
PART_PALETTE = [(0, 0, 0), (228, 60, 60), (66, 110, 220), (245, 160, 50), (250, 225, 80),
                (70, 180, 110), (150, 90, 200)]
# fmt: on
BACKGROUND, BOX, BALL, CYLINDER, CONE, TABLE, LAMP, PERSON = range(len(CLASSES))
NO_PART, HEAD, TORSO, UPPER_ARM, LOWER_ARM, UPPER_LEG, LOWER_LEG = range(len(PART_CLASSES))
