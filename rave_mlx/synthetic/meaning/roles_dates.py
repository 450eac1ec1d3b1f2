"""Roles of days, times and spans of time."""

DATES = """
issued date issued
= Date / DATE / Invoice date / Date of issue / Issued / Issue date / Date issued / Invoice Date / Bill date / Dated
= DATE:
n date / issue date / invoice date / date of issue / document date / date of the document
? [when|on what day|on which date] was [it|this] [issued|written|made out|drawn up|printed]
? when is [it|this] [from|dated]
? what date [is it|is on it|does it have|is printed|is given]
k date / issue_date / invoice_date / document_date / date_issued

bought date issued
= Date / DATE / Trans date / Sale date / Purchase date / DATE: / Order date / Ordered on / Transaction date
n date / purchase date / date of purchase / day of purchase / transaction date
? when [was this bought|did I buy this|was it bought|was I there|did I shop there|was this purchased|did I go there]
? [which|what] day [was this|was it|was I there|did I buy this|was it bought]
? when was [this|that|the] [payment|purchase|sale]
? what date [is it|is on it|is printed|is on the receipt]
k date / purchase_date / transaction_date / date_of_purchase / receipt_date

due date due
= Due / Due date / DUE DATE / Payment due / Pay by / Payable by / Due by / Please pay by / PAYMENT DUE BY / Due on
n due date / payment deadline / deadline / date due / payment date / last day to pay
? when is [it|this|the payment|the bill|the money|the invoice] due
? [when|by when|until when|by what date] [do I have to pay|must I pay]
? [when|by when|until when|by what date] [must it be paid|does it have to be paid|should I pay]
? how long do I have to pay
? what is the last day [to pay|for payment|on which I can pay]
k due_date / payment_due_date / dueDate / pay_by / payment_due

delivered date delivered
= Delivery date / Delivered / Delivered on / DELIVERY DATE / Arrives / Expected delivery / Estimated arrival
n delivery date / date of delivery / day of delivery
? when [was it delivered|will it arrive|does it arrive|will it be delivered|does it come|did it arrive]
? [which|what] day [does it come|will it come|was it delivered]
k delivery_date / delivered_on / date_delivered

expires date expires
= Expires / EXPIRES / Valid until / Expiry date / Valid to / Date of expiry / EXP / Use by / Best before / Good until
n expiry date / expiration date / date of expiry / end of validity
? [until when|how long] is [it|this|the card|that] [valid|good]
? when does [it|this|the card|the pass] [expire|run out|end]
? when is it no longer valid
k expiry_date / valid_until / expiration_date / expires

begins date begins
= Begins / Starts / Start date / Valid from / Effective / From date / Start / Effective date / START DATE
n start date / begin date / first day / starting date
? [when|on what day] does [it|this|the contract|the cover|the course] [begin|start]
? from [when|which date|what day] [is it valid|does it apply|is it in force]
k start_date / valid_from / effective_date

ends date ends
= Ends / End date / Last day / Until / END DATE / Closes / Final day
n end date / last day / final day / closing date
? [when|on what day] does [the contract|the cover|the course|the sale|it all] [end|stop|finish]
k end_date / last_day

born birthday born
= Date of birth / Born / DOB / Birth date / DATE OF BIRTH / Birthday / D.O.B.
n date of birth / birth date / birthday / DOB
? when was [he|she|the person|the holder|the patient] born
? when is [the|her|his] birthday
k date_of_birth / dob / birth_date

signed date signed
= Date signed / Signature date / Signed on / Date of signature / Signed
n signature date / date of signature / date signed
? when was [it|this|the form] signed
? on what [day|date] was it signed
k signature_date / date_signed

*inspected date inspected
= Inspected / Inspection date / Last checked / Tested on / Next inspection / Checked on
n inspection date / date of the inspection / test date
? when was it [inspected|checked|tested]
? on what day did they [check|inspect|test] it
k inspection_date / tested_on

event_date date event
= Date / When / DATE / Day / Event date / Date of event / Appointment
n date / day / event date / date of the event
? when [is|does] [it|the event|the show|that|the meeting|the appointment] [take place|on|happen|]
? [on which day|what day|what date] is [it|the event|the show|the appointment]
? when do I have to [be there|come|go]
k event_date / date / appointment_date

travel_date date event
= Date / DATE / Travel date / Date of travel / Departure date / Journey date / Day
n date / travel date / day of travel / date of the journey / departure date
? [when|on what day|what day|on which date] [do I travel|am I travelling|is the journey|is the trip|do I leave]
k travel_date / departure_date / date

check_in date check_in
= Check-in / Arrival / Arrival date / CHECK IN / Check in
n check-in / arrival date / check-in date / day of arrival
? when [can I check in|do we arrive|is check-in|do I arrive|does the stay begin]
k check_in / arrival_date

check_out date check_out
= Check-out / Departure / CHECK OUT / Check out / Leaving
n check-out / departure date / check-out date
? when [must I check out|do we leave|is check-out|does the stay end]
k check_out / departure_date

*hired date hired
= Hired / Date of hire / Joined / Employed since / Member since / MEMBER SINCE
n date of hire / joining date / entry date
? since when [is she employed|is he a member|are they a member|does he work there]
? when did [he|she|they] join
k hire_date / member_since

period period period
= Period / Billing period / Statement period / Service period / Term / Pay period / For the period / PERIOD
n period / billing period / statement period / time span / pay period
? [what|which] period [is it for|does it cover|is this about|is billed]
? what time span does it cover
? [from when to when|for which months|for what time] is it
k period / billing_period / statement_period / pay_period

clock time time
= Time / TIME / Time: / Printed at / At
n time / time of day / time of purchase
? what time [was it|is it|is printed|was that|was I there|does it say|was it bought]
? at what [time|hour] [was it|was it bought|was I there|was this printed|did I pay]
? when exactly was it
k time / transaction_time / purchase_time

starts_at time starts_at
= Start / Starts / Begins / Time / Doors / Begins at / START / Curtain
n start time / starting time / beginning
? [when|what time|at what time] does [it|the show|the event|the concert|the meeting] [start|begin]
? what time [should I be there|is it|should I come|is the appointment]
k start_time / starts_at / time

departs time departs
= Departs / Departure / Dep / DEP / Depart / Leaves / DEPARTURE
n departure / departure time / time of departure
? [when|what time|at what time] [does it leave|do I leave|does it depart]
? [when|what time|at what time] [does the train leave|do we take off|does the bus go]
k departure_time / departs / dep_time

arrives time arrives
= Arrives / Arrival / Arr / ARR / Arrive / ARRIVAL
n arrival / arrival time / time of arrival
? [when|what time|at what time] [does it arrive|do I arrive|does it get there|do we land|am I there]
k arrival_time / arrives / arr_time

boarding time boarding
= Boarding / Boarding time / BOARDING / Boards at / BOARDING TIME
n boarding time / boarding / time of boarding
? [when|what time] [do I board|does boarding start|does boarding begin|must I be at the gate|is boarding]
k boarding_time

duration duration duration
= Duration / Length / Takes / Time needed / Running time / Hours
n duration / running time / length of time
? how long [does it take|is it|does it last|will it take|is the treatment|is the course|does it go on]
? how [many minutes|many hours|much time] does it take
k duration / length / running_time

hours_open span hours
= Opening hours / Open / Hours / OPEN / Business hours / Opening times
n opening hours / opening times / business hours / hours
? when [are they open|do they open|is it open|are you open|can I go there]
? from when to when are they open
? what are the opening hours
k opening_hours / business_hours

*answer_by date answer_by
= Reply by / RSVP / Respond by / Answer by / Please reply by
n reply date / deadline for the reply
? by when [must I answer|do they want an answer|should I reply|must I let them know]
k reply_by / rsvp_date
"""
