std = "min"
max_line_length = 110
files["spec"] = { std = "min+busted" }
