#!/usr/bin/env python3
"""Writes the text that the tiny tokenizer was trained on: captions from templates, English and Russian.

The output depends on nothing but this file. `spiece.model` was made from it with the trainer of SentencePiece 0.2.0:

    ./make_corpus.py > corpus.txt
    spm_train --input=corpus.txt --model_prefix=spiece --model_type=unigram --vocab_size=512 \
        --character_coverage=1.0 --pad_id=0 --eos_id=1 --unk_id=2 --bos_id=-1 \
        --normalization_rule_name=nmt_nfkc --num_threads=1
"""

import random

SUBJECTS = """a red car|a small dog|a ginger cat|an old man|a young woman|a white horse|a yellow bird|two children|a robot|
an astronaut|a panda|a sailing ship|a steam train|a hot air balloon|a butterfly|a dolphin|a dragon|a knight|a fox|an elephant|
a wooden boat|a paper plane|a glass of water|a candle|a campfire|a waterfall|a city street|a mountain river|a field of flowers|
a red circle|a blue square|a green triangle|a white ball|a black cube|a purple star""".replace("\n", "").split("|")
VERBS = """is running|is drifting|is walking|is flying|is jumping|is swimming|is dancing|is spinning slowly|is moving to the left|
is moving to the right|is moving up|is moving down|is growing|is shrinking|is turning around|is looking at the camera|
is playing|is sleeping|is burning|is falling""".replace("\n", "").split("|")
PLACES = """on the mountain road|on the beach at sunset|in the forest|over the sea|in the snow|under the stars|in a big city at night|
through the clouds|in the desert|on a wooden table|in the rain|across the bridge|near the lake|in outer space|on the moon|
in front of a castle|on a green field|on a black background|on a white background""".replace("\n", "").split("|")
STYLES = """close view|fast movement|slow motion|high quality, 4k|cinematic light|oil painting|watercolor|black and white film|
aerial view|macro shot|bright colors|soft focus|cartoon style|pixel art|in the style of an old photo|timelapse|
blurry, low quality|no people|text, watermark|deformed hands""".replace("\n", "").split("|")
RU_SUBJECTS = """красная машина|маленькая собака|рыжий кот|старый человек|молодая женщина|белая лошадь|жёлтая птица|двое детей|
робот|космонавт|панда|парусный корабль|паровоз|воздушный шар|бабочка|дельфин|дракон|рыцарь|лиса|слон|деревянная лодка|
бумажный самолёт|стакан воды|свеча|костёр|водопад|городская улица|горная река|поле цветов|красный круг|синий квадрат|
зелёный треугольник|белый мяч|чёрный куб|фиолетовая звезда""".replace("\n", "").split("|")
RU_VERBS = """бежит|едет|идёт|летит|прыгает|плывёт|танцует|медленно вращается|движется влево|движется вправо|поднимается|
опускается|растёт|уменьшается|оборачивается|смотрит в камеру|играет|спит|горит|падает""".replace("\n", "").split("|")
RU_PLACES = """по горной дороге|на пляже на закате|в лесу|над морем|в снегу|под звёздами|в большом городе ночью|сквозь облака|
в пустыне|на деревянном столе|под дождём|через мост|у озера|в открытом космосе|на луне|перед замком|на зелёном поле|
на чёрном фоне|на белом фоне""".replace("\n", "").split("|")
RU_STYLES = """крупный план|быстрое движение|замедленная съёмка|высокое качество|кинематографичный свет|картина маслом|акварель|
чёрно-белое кино|вид сверху|яркие цвета|мультфильм|пиксельная графика|старая фотография|размыто, низкое качество|
без людей|текст, водяной знак""".replace("\n", "").split("|")
COLORS = "red green blue yellow white black orange purple brown gray pink golden silver".split()
RU_COLORS = "красный зелёный синий жёлтый белый чёрный оранжевый фиолетовый коричневый серый розовый золотой".split()
CHARACTERS = (
    "abcdefghijklmnopqrstuvwxyz",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "абвгдеёжзийклмнопрстуфхцчшщъыьэюя",
    "АБВГДЕЁЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯ",
    "0123456789",
    "!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~",
    "«»“”„–—№°",
)


def main():
    rng = random.Random(20231122)
    for _ in range(6000):
        russian = rng.random() < 0.45
        subjects, verbs, places, styles = (
            (RU_SUBJECTS, RU_VERBS, RU_PLACES, RU_STYLES)
            if russian
            else (SUBJECTS, VERBS, PLACES, STYLES)
        )
        line = f"{rng.choice(subjects)} {rng.choice(verbs)}"
        if rng.random() < 0.8:
            line += " " + rng.choice(places)
        for _ in range(rng.randrange(3)):
            line += ", " + rng.choice(styles)
        if rng.random() < 0.3:
            line = line[0].upper() + line[1:]
        if rng.random() < 0.2:
            line += "."
        if rng.random() < 0.15:
            line += f" {rng.choice(RU_COLORS if russian else COLORS)} {rng.randrange(2000)}"
        print(line)
    for characters in CHARACTERS:
        for _ in range(12):
            print(" ".join(rng.sample(characters, len(characters))))


if __name__ == "__main__":
    main()
