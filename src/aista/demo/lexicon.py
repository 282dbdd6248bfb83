"""The words of the embedded demo: English, Chinese and Japanese side by side.

Every row is one meaning. Chinese nouns carry their classifier, Japanese nouns their counter, Chinese
monosyllabic adjectives stand without 的, Japanese verbs are given as the stem before ます. ``kind`` says
what a verb or an adjective may stand with, so that a drawn sentence makes sense in all three languages.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

RARE_SHARE = 0.35


@dataclass(frozen=True)
class Noun:
    """A person or a thing; ``classifier`` and ``counter`` follow the number in Chinese and Japanese."""

    en: str
    zh: str
    ja: str
    classifier: str
    counter: str
    kinds: frozenset[str]
    plural: str

    @property
    def animate(self) -> bool:
        """Whether Japanese says いる (people, animals) and not ある."""
        return bool(self.kinds & {"person", "animal"})


@dataclass(frozen=True)
class Adjective:
    """An attribute with the kinds of nouns it may describe."""

    en: str
    zh: str
    ja: str
    kinds: frozenset[str]


@dataclass(frozen=True)
class Verb:
    """A verb; ``ja`` is the stem before ます, ``zh_past`` differs where the plain verb cannot take 了."""

    en: str
    past: str
    zh: str
    ja: str
    kinds: frozenset[str]
    particle: str = "を"
    wanted: bool = True
    zh_past: str = ""

    @property
    def zh_perfective(self) -> str:
        """The Chinese verb of a completed event."""
        return self.zh_past or self.zh + "了"


@dataclass(frozen=True)
class Gift:
    """A verb with a receiver. ``{r}`` is the receiver; ``zh_past`` is the completed form."""

    en: str
    past: str
    zh: str
    zh_past: str
    ja: str
    kinds: frozenset[str]


@dataclass(frozen=True)
class Place:
    """A place: ``preposition`` + ``en`` where something happens, ``to`` + ``en`` where somebody goes."""

    preposition: str
    en: str
    zh: str
    zh_inside: str
    ja: str

    @property
    def word(self) -> str:
        """The content word."""
        return self.en.removeprefix("the ")


@dataclass(frozen=True)
class Adverb:
    """A time or a vehicle: one fixed phrase in each language; ``tenses`` limits a time."""

    en: str
    zh: str
    ja: str
    tenses: frozenset[str] = frozenset()


def _nouns(table: str) -> tuple[Noun, ...]:
    rows = []
    for line in table.strip().splitlines():
        en, zh, ja, classifier, counter, kinds, *plural = line.split()
        rows.append(
            Noun(
                en,
                zh,
                ja,
                classifier,
                counter,
                frozenset(kinds.split(",")),
                plural[0] if plural else en + "s",
            )
        )
    return tuple(rows)


def _split(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]


def _kinds(cell: str) -> frozenset[str]:
    return frozenset(cell.split(","))


PERSONS = _nouns("""
man 男人 男の人 个 人 person men
woman 女人 女の人 个 人 person women
boy 男孩 男の子 个 人 person
girl 女孩 女の子 个 人 person
child 孩子 子供 个 人 person children
doctor 医生 医者 位 人 person
teacher 老师 先生 位 人 person
student 学生 学生 个 人 person
nurse 护士 看護師 位 人 person
farmer 农民 農民 个 人 person
singer 歌手 歌手 位 人 person
writer 作家 作家 位 人 person
painter 画家 画家 位 人 person
lawyer 律师 弁護士 位 人 person
driver 司机 運転手 位 人 person
cook 厨师 料理人 位 人 person
dancer 舞蹈演员 ダンサー 位 人 person
soldier 士兵 兵士 个 人 person
engineer 工程师 エンジニア 位 人 person
scientist 科学家 科学者 位 人 person
reporter 记者 記者 位 人 person
musician 音乐家 音楽家 位 人 person
grandmother 奶奶 おばあさん 位 人 person
grandfather 爷爷 おじいさん 位 人 person
neighbor 邻居 近所の人 位 人 person
guest 客人 お客さん 位 人 person
""")

THINGS = _nouns("""
book 书 本 本 冊 thing,text,small
newspaper 报纸 新聞 份 部 thing,text,small
letter 信 手紙 封 通 thing,text,small
magazine 杂志 雑誌 本 冊 thing,text,small
pen 钢笔 ペン 支 本 thing,small,tool
apple 苹果 りんご 个 個 thing,food,small
orange 橙子 オレンジ 个 個 thing,food,small
cake 蛋糕 ケーキ 个 個 thing,food
fish 鱼 魚 条 匹 thing,food,animal fish
egg 鸡蛋 卵 个 個 thing,food,small
banana 香蕉 バナナ 根 本 thing,food,small
hat 帽子 帽子 顶 個 thing,cloth,small
coat 外套 コート 件 着 thing,cloth
shirt 衬衫 シャツ 件 枚 thing,cloth
skirt 裙子 スカート 条 枚 thing,cloth
watch 手表 腕時計 块 個 thing,machine,small watches
umbrella 雨伞 傘 把 本 thing,tool
bag 书包 かばん 个 個 thing,container
ring 戒指 指輪 枚 個 thing,small
chair 椅子 椅子 把 脚 thing,furniture
table 桌子 テーブル 张 台 thing,furniture
lamp 台灯 ランプ 盏 台 thing,furniture,machine
bed 床 ベッド 张 台 thing,furniture
bicycle 自行车 自転車 辆 台 thing,machine,vehicle
car 汽车 車 辆 台 thing,machine,vehicle
dog 狗 犬 只 匹 animal
cat 猫 猫 只 匹 animal
horse 马 馬 匹 頭 animal
bird 鸟 鳥 只 羽 animal
picture 画 絵 幅 枚 thing,art
photo 照片 写真 张 枚 thing,art,small
map 地图 地図 张 枚 thing,small,tool
camera 照相机 カメラ 台 台 thing,machine,tool
computer 电脑 パソコン 台 台 thing,machine,tool
phone 手机 携帯電話 部 台 thing,machine,tool
guitar 吉他 ギター 把 本 thing,instrument
piano 钢琴 ピアノ 架 台 thing,instrument
flower 花 花 朵 本 thing,plant
ticket 票 切符 张 枚 thing,small
cup 杯子 カップ 个 個 thing,dish
bottle 瓶子 瓶 个 本 thing,container,dish
knife 刀 ナイフ 把 本 thing,tool,dish knives
key 钥匙 鍵 把 本 thing,small,tool
box 箱子 箱 个 個 thing,container,freight boxes
song 歌 歌 首 曲 song
""")

ADJECTIVES = tuple(
    Adjective(en, zh, ja, _kinds(kinds))
    for en, zh, ja, kinds in _split("""
red | 红色的 | 赤い | cloth,container,furniture,vehicle,dish,plant,tool
white | 白色的 | 白い | cloth,container,furniture,vehicle,dish,plant,animal
black | 黑色的 | 黒い | cloth,container,furniture,vehicle,dish,animal,tool
blue | 蓝色的 | 青い | cloth,container,furniture,vehicle,dish,tool
green | 绿色的 | 緑の | cloth,container,furniture,vehicle,dish
yellow | 黄色的 | 黄色い | cloth,container,plant,vehicle,dish,tool
big | 大 | 大きな | furniture,container,animal,food,vehicle,dish
small | 小 | 小さな | furniture,container,animal,food,vehicle,dish,art
new | 新 | 新しい | cloth,machine,text,furniture,tool,container,song,instrument
old | 旧 | 古い | cloth,machine,text,furniture,tool,container,instrument,art
beautiful | 漂亮的 | 美しい | cloth,plant,art,animal
expensive | 昂贵的 | 高価な | cloth,machine,furniture,instrument,art
cheap | 便宜的 | 安い | cloth,machine,furniture,food,tool
heavy | 沉重的 | 重い | furniture,container,machine
interesting | 有趣的 | 面白い | text,art
long | 长 | 長い | text,song
delicious | 好吃的 | 美味しい | food
famous | 著名的 | 有名な | person,song,art
young | 年轻的 | 若い | person
tall | 高个子的 | 背の高い | person
kind | 善良的 | 親切な | person
busy | 忙碌的 | 忙しい | person
clever | 聪明的 | 賢い | person
tired | 疲惫的 | 疲れた | person
""")
)

VERBS = tuple(
    Verb(
        en, past, zh, ja, _kinds(kinds),
        particle="に" if "ni" in flags else "を", wanted="unwanted" not in flags, zh_past=zh_past,
    )
    for en, past, zh, zh_past, ja, kinds, flags in _split("""
buy | bought | 买 | | 買い | thing,animal |
sell | sold | 卖 | 卖掉了 | 売り | thing,animal |
find | found | 找到 | | 見つけ | thing,animal |
lose | lost | 弄丢 | | なくし | small,tool | unwanted
see | saw | 看到 | | 見 | thing,animal |
read | read | 读 | | 読み | text |
write | wrote | 写 | | 書き | song,text |
eat | ate | 吃 | | 食べ | food |
draw | drew | 画 | | 描き | animal,plant,vehicle,furniture |
wash | washed | 洗 | | 洗い | cloth,dish,vehicle,animal |
repair | repaired | 修理 | | 修理し | machine,furniture,instrument |
carry | carried | 搬 | | 運び | furniture,freight |
open | opened | 打开 | | 開け | container |
break | broke | 弄坏 | | 壊し | machine,furniture,instrument | unwanted
borrow | borrowed | 借 | | 借り | text,tool,vehicle,instrument |
use | used | 用 | | 使い | tool,machine |
choose | chose | 选 | | 選び | cloth,art,plant,small,song |
steal | stole | 偷 | | 盗み | small,vehicle,art,instrument | unwanted
touch | touched | 摸 | | 触り | animal,plant,instrument,cloth | ni
sing | sang | 唱 | | 歌い | song |
meet | met | 见到 | | 会い | person | ni
help | helped | 帮助 | | 助け | person |
visit | visited | 拜访 | | 訪ね | person |
""")
)  # fmt: skip

GIFTS = tuple(
    Gift(en, past, zh, zh_past, ja, _kinds(kinds))
    for en, past, zh, zh_past, ja, kinds in _split("""
give | gave | 送给{r} | 送给了{r} | あげ | thing
lend | lent | 借给{r} | 借给了{r} | 貸し | text,tool,vehicle,instrument
send | sent | 给{r}寄 | 给{r}寄了 | 送り | small,cloth,art,text
show | showed | 给{r}看 | 给{r}看了 | 見せ | art,text,cloth,animal,plant
""")
)

PLACES = tuple(
    Place(*row)
    for row in _split("""
in | the park | 公园 | 公园 | 公園
at | the school | 学校 | 学校 | 学校
in | the kitchen | 厨房 | 厨房 | 台所
in | the garden | 花园 | 花园 | 庭
at | the station | 车站 | 车站 | 駅
in | the library | 图书馆 | 图书馆 | 図書館
at | the market | 市场 | 市场 | 市場
in | the restaurant | 餐厅 | 餐厅 | レストラン
at | the hotel | 酒店 | 酒店 | ホテル
at | the hospital | 医院 | 医院 | 病院
at | the museum | 博物馆 | 博物馆 | 博物館
in | the office | 办公室 | 办公室 | オフィス
on | the beach | 海边 | 海边 | 海辺
at | the airport | 机场 | 机场 | 空港
in | the village | 村子 | 村子里 | 村
in | the forest | 森林 | 森林里 | 森
at | the church | 教堂 | 教堂 | 教会
in | Tokyo | 东京 | 东京 | 東京
in | London | 伦敦 | 伦敦 | ロンドン
""")
)
INDOORS = frozenset({"kitchen", "garden"})  # somebody does not travel there by vehicle

VEHICLES = tuple(
    Adverb(en, zh, ja)
    for en, zh, ja in _split("""
by train | 坐火车 | 電車で
by bus | 坐公共汽车 | バスで
by taxi | 坐出租车 | タクシーで
by bicycle | 骑自行车 | 自転車で
by car | 开车 | 車で
by subway | 坐地铁 | 地下鉄で
by ship | 坐船 | 船で
by plane | 坐飞机 | 飛行機で
""")
)

TIMES = tuple(
    Adverb(en, zh, ja, _kinds(tenses))
    for en, zh, ja, tenses in _split("""
yesterday | 昨天 | 昨日 | past,negative
last night | 昨晚 | 昨夜 | past,negative
this morning | 今天早上 | 今朝 | past,negative
last week | 上周 | 先週 | past,negative
last month | 上个月 | 先月 | past,negative
last year | 去年 | 去年 | past,negative
tomorrow | 明天 | 明日 | future,want
tonight | 今晚 | 今夜 | future,want
next week | 下周 | 来週 | future,want
next month | 下个月 | 来月 | future,want
next year | 明年 | 来年 | future,want
on Monday | 星期一 | 月曜日に | past,negative,future
on Friday | 星期五 | 金曜日に | past,negative,future
on Sunday | 星期天 | 日曜日に | past,negative,future
""")
)

MOTIONS = (
    Verb("go", "went", "去", "行き", frozenset(), zh_past="去了"),
    Verb("return", "returned", "回", "戻り", frozenset(), zh_past="回到了"),
)


@dataclass(frozen=True)
class Pronoun:
    """A subject pronoun; the Japanese wish of the first person is たい, of others たがる."""

    en: str
    zh: str
    ja: str
    first_person: bool
    third_singular: bool


PRONOUNS = (
    Pronoun("I", "我", "私", True, False),
    Pronoun("we", "我们", "私たち", True, False),
    Pronoun("he", "他", "彼", False, True),
    Pronoun("she", "她", "彼女", False, True),
    Pronoun("they", "他们", "彼ら", False, False),
)
# (English, Chinese, Japanese) of the counted nouns.
NUMBERS = (("two", "两", "二"), ("three", "三", "三"), ("four", "四", "四"), ("five", "五", "五"))
TSU = ("二つ", "三つ", "四つ", "五つ")


def stable_hash(*parts: str) -> int:
    """Hash strings the same way in every process and on every machine."""
    return int.from_bytes(hashlib.sha256("\0".join(parts).encode()).digest()[:8], "big")


def _rare() -> frozenset[str]:
    """About a third of the content words of every class, drawn by a hash."""
    classes: tuple[list[str], ...] = (
        [noun.en for noun in PERSONS],
        [noun.en for noun in THINGS],
        [adjective.en for adjective in ADJECTIVES],
        [verb.en for verb in VERBS],
        [place.word for place in PLACES],
        [vehicle.en.removeprefix("by ") for vehicle in VEHICLES],
    )
    words: set[str] = set()
    for entries in classes:
        ordered = sorted(entries, key=lambda word: stable_hash("rare", word))
        words.update(ordered[: round(RARE_SHARE * len(ordered))])
    # "car" and "bicycle" are both a thing and a vehicle: one decision for both.
    return frozenset(words)


RARE_WORDS = _rare()
