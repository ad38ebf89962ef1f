"""Given names that tell a person's name apart from other capitalised words.

Among the commonest of the last hundred years in the United States (Social Security Administration, national data on
given names), without those that are also words, months or places, and those that medicine uses (Thomas splint, Bruce
protocol, LUCAS device): a name that isn't here is known by its surroundings alone.
"""

GIVEN = tuple(
    """
    Aaron Alexander Alan Andrew Anthony Benjamin Brandon Brian Bryan Charles Christopher Daniel David Dennis Donald
    Douglas Edward Elijah Eric Ethan Gabriel Gary George Gerald Gregory Jacob James Jason Jeffrey Jeremy Jerry John
    Jonathan Jose Joseph Joshua Juan Justin Kenneth Kevin Kyle Larry Lawrence Liam Matthew Michael Nathan Nicholas Noah
    Patrick Paul Peter Randy Raymond Richard Robert Ronald Ryan Samuel Sean Stephen Steven Timothy Tyler William Zachary
    Abigail Alice Amanda Amy Andrea Angela Anna Ashley Barbara Betty Beverly Brenda Brittany Carol Carolyn Catherine
    Cheryl Christina Christine Cynthia Danielle Deborah Debra Denise Diana Diane Donna Doris Dorothy Elizabeth Emily
    Emma Evelyn Frances Gloria Hannah Heather Helen Isabella Jacqueline Jane Janet Janice Jennifer Jessica Joan Joyce
    Judith Judy Julia Julie Karen Katherine Kathleen Kathryn Kayla Kimberly Laura Lauren Linda Lisa Lori Margaret Maria
    Marilyn Martha Mary Megan Melissa Michelle Nancy Natalie Nicole Olivia Pamela Patricia Rachel Rebecca Ruth Samantha
    Sandra Sara Sarah Sharon Shirley Sophia Stephanie Susan Teresa Theresa Tiffany
    """.split()
)
