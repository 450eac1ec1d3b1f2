"""Roles of amounts."""

MONEY = """
payable amount total
= TOTAL / Total / Total due / TOTAL DUE / Amount due / AMOUNT DUE / Grand total / GRAND TOTAL / To pay
= Amount payable
= Balance due / BALANCE DUE / Total amount / Sum / Total to pay / Please pay / Net payable / Invoice total / TOTAL AMT
= Total:
n total / total amount / total due / amount due / amount to pay / grand total / sum / total price / full amount
n final amount
? how much [do I owe|is it|do I have to pay][| in total| altogether| in all]
? how much [must I pay|was it|did it cost|does it cost][| in total| altogether| in all]
? how much [did I pay|did I spend|was paid|do we owe|is to be paid|is due|is owed][| in total| altogether]
? what [do I owe|do I have to pay|did I pay|is to be paid]
? what [did it all cost|does it come to|does it add up to|was the damage]
? what's the total [cost|price|bill|sum|I paid|to pay]
? how [high|big|large] is the [bill|total|amount due|invoice]
? how much money [do they want|is due|was it|do I need]
k total / total_amount / grand_total / amount_due / invoice_total / total_price / amount_payable / balance_due
k sum_total

subtotal amount subtotal
= Subtotal / SUBTOTAL / Sub-total / SUB TOTAL / Net / Net amount / Goods / Total before tax / Net total
= Total excl. VAT
n subtotal / net amount / amount before tax / sum before tax / price before tax / net total / total without tax
? how much [is it|was it|would it be] [before tax|without tax|before VAT|without the VAT|before taxes]
? what [is it|was it|does it come to] [before tax|without VAT|excluding tax]
k subtotal / net_amount / sub_total / total_net / amount_before_tax

tax amount tax
= Tax / TAX / VAT / V.A.T. / Sales tax / GST / Sales Tax / Tax amount / VAT amount / MwSt / incl. VAT / TAX TOTAL
n tax / tax amount / VAT / sales tax / VAT amount / amount of tax / taxes
? how much [tax|VAT] [is it|is there|is in there|did I pay|is included|was charged|was added|do I pay|must be paid]
? how [high|much] is the [tax|VAT|sales tax]
? what [tax|VAT] [was charged|is included|did they charge]
k tax / tax_amount / vat / vat_amount / sales_tax / total_tax

tip amount tip
= Tip / TIP / Gratuity / Service / Service charge / GRATUITY / Tip amount
n tip / gratuity / service charge / tip amount
? how much [did I tip|was the tip|did we tip|was tipped|tip did I leave|went to the waiter|is for service]
? what did [I|we] [leave as a tip|give as tip|tip]
k tip / gratuity / tip_amount / service_charge

paid amount paid
= Paid / Cash / CASH / Amount paid / Card / Tendered / CASH TENDERED / Payment received / Amount tendered / CASH PAID
n amount paid / cash / payment / amount tendered / cash given
? how much [cash did I give|cash did I hand over|did I hand over|was handed over|cash was given|was tendered]
? what [amount did I hand over|did I give the cashier|cash was given]
k amount_paid / cash_tendered / paid / payment_amount

change amount change
= Change / CHANGE / Change due / CHANGE DUE / Your change / Cash back / Change given
n change / change due / change given
? how much [change did I get|did I get back|change was given|money came back|change is due|do I get back]
? what [did I get back|was the change|did they give back|change did I get]
k change / change_due / cash_change

discount amount discount
= Discount / DISCOUNT / You saved / Savings / Member saving / Coupon / Rebate / Reduction / PROMO / Less discount
n discount / saving / rebate / reduction / price reduction
? how much [did I save|was taken off|was knocked off|did we save|less was it|is taken off]
? [how big|how high|how large] is the [discount|reduction|rebate]
? what [did I save|was the saving|discount did I get]
k discount / discount_amount / total_discount / savings

shipping amount shipping
= Shipping / SHIPPING / Delivery / Postage / Freight / Delivery charge / Shipping & handling / Postage and packing
n shipping / shipping cost / postage / delivery charge / delivery cost / freight / shipping fee
? how much [is|was] the [delivery|postage|shipping|freight]
? what [does|did] [shipping|delivery|the postage] cost
k shipping / shipping_cost / delivery_fee / freight / shipping_amount

deposit amount deposit
= Deposit / DEPOSIT / Deposit paid / Down payment / Advance / Prepayment / Bottle deposit
n deposit / down payment / advance payment / prepayment
? how much [is|was] the [deposit|down payment|advance]
? what [was paid in advance|did I pay up front|was the down payment]
k deposit / deposit_amount / down_payment

balance_old amount balance_old
= Opening balance / Previous balance / Balance forward / Old balance / Balance brought forward / Last balance
= Start balance
n opening balance / previous balance / old balance / balance before / balance at the start / starting balance
? how much [was in the account at the start|was there at the beginning|was on the account before|did it start with]
? what was the balance [at the start|at the beginning|before|at the beginning of the period|to begin with]
k opening_balance / previous_balance / start_balance / balance_forward

balance_new amount balance_new
= Closing balance / New balance / Ending balance / Balance carried forward / Current balance / Final balance
n closing balance / new balance / final balance / current balance / balance at the end / ending balance
? how much [is in the account|is left|was left at the end|is on the account|was there at the end|money is left]
? what [is|was] the balance [at the end|now|at the end of the time|at the end of the period|after that]
k closing_balance / new_balance / ending_balance / current_balance

minimum amount minimum
= Minimum payment / Minimum due / Min. payment / Minimum amount due / MINIMUM PAYMENT DUE
n minimum payment / minimum amount / least payment
? what is the least [I have to pay|I can pay|I must pay]
? how much must I pay [at least|as a minimum]
k minimum_payment / minimum_due

*credit_limit amount credit_limit
= Credit limit / Credit line / Total credit line / Limit / CREDIT LIMIT
n credit limit / credit line / limit
? how much [can I spend|credit do I have|may I overdraw]
? up to what amount [can I spend|is there credit]
k credit_limit / credit_line

rent amount rent
= Rent / Monthly rent / Rent per month / Rent due / RENT / Base rent
n rent / monthly rent / rent per month
? how much [is|will|would] the rent [be|]
? what [is my rent|do I pay for the flat|does the flat cost a month|rent do I pay]
k rent / monthly_rent / rent_amount

gross amount gross
= Gross pay / Gross wages / Gross salary / GROSS / Total earnings / Wages, tips, other compensation / Gross
n gross pay / gross wages / gross salary / gross income / earnings / wages
? how much [did I earn|did she earn|did he earn|was earned][| before tax| before deductions]
? what [did I earn|are the wages|was earned][| before tax| before deductions| in gross terms]
k gross_pay / gross_wages / gross_salary / wages

net amount net_pay
= Net pay / NET PAY / Take-home pay / Net salary / Paid out / Amount paid out / Net wages
n net pay / take-home pay / net salary / payout
? how much [did I take home|was paid out|reached my account|is my salary after tax|do I get paid out]
? what [do I get after tax|was paid out|is left after deductions]
k net_pay / net_salary / take_home_pay

withheld amount withheld
= Income tax / Federal income tax withheld / Tax withheld / Income tax withheld / PAYE tax / Wage tax
n income tax / income tax withheld / tax withheld / federal income tax withheld / wage tax
? how much [income tax was taken|tax was withheld|was withheld for tax|went to the tax office|income tax did I pay]
k income_tax / tax_withheld / federal_income_tax_withheld

pension amount pension
= Pension / Pension contribution / Retirement / Social security tax withheld / Social security / Retirement plan
n pension contribution / social security tax / contribution to the pension / retirement contribution
? how much [goes|went|is put] [into the pension|to social security|into retirement]
k pension / pension_contribution / social_security_tax

health_pay amount health_pay
= Health insurance / Medicare tax withheld / Health contribution / Medical / Health plan
n health contribution / health insurance contribution / medicare tax / contribution to health insurance
? how much [goes|went|was paid] [to health insurance|into health insurance|for health]
k health_insurance / medicare_tax

*overtime amount overtime
= Overtime / Overtime pay / OT pay / Extra hours
n overtime / overtime pay / pay for extra hours
? how much [was paid for overtime|did the extra hours bring|overtime did I get]
k overtime / overtime_pay

premium amount premium
= Premium / Yearly premium / Annual premium / Monthly premium / Premium due / Contribution
n premium / insurance premium / contribution
? how much [does the insurance cost|do I pay for the insurance|is the insurance][| a year| a month|]
? what [does|will] the [insurance|policy|cover] cost
k premium / annual_premium / premium_amount

excess amount excess
= Excess / Deductible / Own share / Voluntary excess / DEDUCTIBLE
n excess / deductible / own share / own contribution
? how much [do I pay myself|must I pay myself|is not covered][| in a claim|]
k deductible / excess

sum_insured amount sum_insured
= Sum insured / Coverage / Cover up to / Insured amount / Limit of cover
n sum insured / insured amount / amount of cover / coverage
? [up to what amount|for how much] [am I insured|is it insured|is it covered]
k sum_insured / coverage_amount

fee amount fee
= Fee / Annual fee / Entry fee / Admission / Course fee / Membership fee / Charge / Handling fee / Registration fee
n fee / annual fee / admission fee / charge / membership fee
? how much is the [fee|admission|membership|course|charge]
? what [does it cost to join|do they charge|does the membership cost|is charged|does admission cost]
k fee / annual_fee / fee_amount / entry_fee

price amount price
= Price / PRICE / Fare / Ticket price / Price incl. VAT / Cost / FARE
n price / fare / ticket price / cost
? how much [was|is] the [ticket|fare|price]
? what [did|does] [the ticket|it|a ticket] cost
k price / ticket_price / fare

refund amount refund
= Refund / Refund total / Amount refunded / Credit / CREDIT TOTAL / Refund due
n refund / refunded amount / credit amount
? how much [was refunded|do I get refunded|money do I get back|is credited|will I get back]
k refund / refund_amount / credit_amount

*penalty amount penalty
= Late fee / Penalty / Late charge / Fine / Reminder fee / LATE FEE
n late fee / penalty / fine / reminder fee
? how much [is the fine|is the penalty|do I pay if I am late|is charged for being late]
? what does it cost [if I pay late|when I am late|to be late]
k late_fee / penalty / fine_amount
"""
