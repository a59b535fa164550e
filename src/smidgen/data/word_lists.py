"""Everyday English words, grouped by part of speech.

They give the bundled model's tokenizer whole tokens for common words and its pretraining some grammar.
"""

PEOPLE = (
    "man woman child boy girl friend mother father brother sister teacher doctor nurse driver farmer "
    "baker writer singer captain guard judge clerk manager customer guest owner neighbor uncle aunt "
    "cousin student worker boss team family agent assistant husband wife parent son daughter person "
    "people"
).split()

PLACES = (
    "house home room kitchen garden street road city town village country airport station bank store shop "
    "market hotel restaurant school office library hospital park beach river lake mountain forest island "
    "bridge harbor farm church museum theater gas corner state area location address map way"
).split()

THINGS = (
    "book letter phone car bus train plane boat bike ticket card credit bag box key door window table "
    "chair bed lamp clock watch shirt coat shoe hat ring coin paper pen picture song music movie game "
    "ball toy tool computer screen battery light alarm calendar list reminder message email text password "
    "pin number name word question answer story news joke fact recipe meal dinner lunch breakfast bread "
    "cheese milk egg rice soup salad pizza pasta chicken fish beef apple orange banana lemon potato "
    "tomato onion sugar salt water coffee tea juice cake cookie bill check account balance money dollar "
    "price cost payment fee rate interest loan tax insurance report order package flight reservation "
    "passport visa suitcase luggage bank transfer transaction deposit limit score income job vacation "
    "holiday appointment meeting schedule plan trip tour weather rain snow wind sun temperature oil tire "
    "engine gas mile mph volume speed language accent voice whisper mode timer device speaker software "
    "playlist thing idea reason problem change type kind size color shape date birthday year month week "
    "day hour minute second time point"
).split()

VERBS = (
    "tell give show find make take get put set turn send call book cancel change check read write play "
    "stop start help need want like know think say mean ask answer buy sell pay spend save transfer order "
    "cook bake eat drink travel drive fly walk run carry keep hold open close lock remember forget learn "
    "teach speak translate spell define count add remove update replace report lose break fix use try "
    "work sleep wake wait meet visit see look watch hear listen measure convert calculate roll flip pick "
    "choose share move live stay leave arrive bring let repeat sync redeem apply improve expire freeze "
    "activate fill last schedule remind compare score explain describe judge quote"
).split()

ADJECTIVES = (
    "new old good bad big small long short high low hot cold warm cool red blue green yellow black white "
    "brown pink purple gray young quick slow early late easy hard happy sad kind quiet loud rich poor "
    "full empty clean dirty dry wet light dark heavy soft strong weak right wrong clear true false same "
    "different better worse best worst last next first second third free busy safe sure ready "
    "international direct current total main nice great funny sweet fresh local final correct"
).split()

LITTLE_WORDS = (
    "the a an and or but if then so because of to in on at by for from with without about into over under "
    "after before between during until while is are was were be been being am do does did done have has "
    "had having can could will would shall should may might must not no yes please thanks thank hello hi "
    "hey bye okay ok sorry i you he she it we they me him her us them my your his its our their this that "
    "these those who what when where why how which much many some any every each all both few more most "
    "less least very too also just only still again now soon today tomorrow yesterday tonight morning "
    "afternoon evening night monday tuesday wednesday thursday friday saturday sunday january february "
    "march april june july august september october november december there here up down out off away "
    "back one two three four five six seven eight nine ten hundred thousand i'm i'd i've i'll it's what's "
    "don't can't isn't how's that's let's"
).split()

# Words of rubrics and verdicts, so that judge prompts take few tokens.
GRADING_WORDS = (
    "response responses score scores scored criteria specific analysis rubric weight weights expert judge "
    "judges compare conversation context format output step evaluation evaluate grade correct incorrect "
    "right wrong accuracy follow follows instruction instructions begin end the given text says answer "
    "answers whole number reply exactly block blocks boxed system user assistant order length count "
    "matters here how each does bad perfect prompt what"
).split()

# More of the commonest English words, so that everyday text needs few tokens.
COMMON_WORDS = (
    "love life world hand part child eye woman place work case point government company group fact night "
    "head side kind hour game line end member law car idea body information back parent face others level "
    "office door health person art war history party result change morning reason research girl guy "
    "moment air teacher force education foot boy age policy process sense nation plan college interest "
    "death experience effect use class control field development role effort rate heart drug show leader "
    "light voice wife police mind price report decision son view relationship town road arm difference "
    "value building action season society tax director position player record paper space ground form "
    "event official matter center couple site project activity star table need court oil situation cost "
    "industry figure phone data picture practice piece land product doctor wall patient worker news test "
    "movie north support technology expression meaning please possible able available another around ever "
    "never always often maybe really actually currently recently quickly exactly approximately instead "
    "together anyone someone everyone everything something anything nothing whether though although since "
    "per versus than through against within across near far else enough become seem happen provide "
    "include continue set allow lead understand create offer consider appear serve die expect suggest "
    "raise pass require decide pull return receive explain develop agree hit produce cover catch request "
    "locate determine complete finish start begin submit apply check confirm verify increase decrease "
    "lower extend delay dispute block contact connect join repeat skip rewind forward went said made came "
    "got took knew saw gave found told felt left put kept began seemed helped showed heard played ran "
    "moved lived believed brought happened wrote sat stood lost paid met included continued learned "
    "changed led going doing making taking getting having using looking coming saying trying calling "
    "asking telling leaving feeling traveling shopping cooking driving working meeting spending saving "
    "planning flying eating drinking being friends days years things people ways times words questions "
    "answers items miles dollars minutes hours weeks months calories ingredients directions shots options "
    "details benefits rewards points bills taxes cards flights english spanish french german italian "
    "chinese japanese portuguese russian hindi american canadian european usa uk france spain italy "
    "germany china japan mexico india canada london paris york texas florida california chicago visa "
    "mastercard express bank america gmail facebook google uber netflix spotify pandora routing pto 401k "
    "w2 apr atm ip gps pin roth ira cpu vacation international nutrition calorie substitute ingredient "
    "suggestion recommendation review exchange currency euro yen peso pound plug adapter carry luggage "
    "gate terminal rollover overdraft vaccine jump tire pressure pump smart thermostat lights dishwasher "
    "oven fridge vacuum laundry dentist insurance schedule maintenance mechanic hobby pets gender origin "
    "human robot computer real spelled synonym thesaurus dictionary define definition opposite whisper "
    "accent nickname username yourself myself"
).split()
