//! Keys and signatures made by the `openssl` command (3.0), for tests. The private keys of the devices were thrown away.

/// What was signed; its final newline too.
pub(crate) const MESSAGE: &[u8] = b"{\"id_data\":\"{\\\"mac\\\":\\\"a\\\"}\",\"pubkey\":\"x\"}\n";

/// Kind, key, signature in Base64.
pub(crate) const SIGNED: &[(&str, &str, &str)] = &[
    (
        "RSA 1024",
        "-----BEGIN PUBLIC KEY-----\n\
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQD7Nf+e8MpJjufR1WppOt81OQMB\n\
CDvshId6aSp0Kh77MiRvV6zJaDYWii+THcUxF9KSaLzmX3+3pTvHVOlXFqTMv0Ef\n\
1Z0BiB43OOmXVj2F49OUGZXfSLCnFewBg5xsw3K+66VeB6eIHE79It0Obufw/wNj\n\
rpDpcGEFKzHdoMUBhwIDAQAB\n\
-----END PUBLIC KEY-----\n",
        "iOHdKgUFKCjPNcXQ3x5lO3kH/yGJC86TukSfugxXIbmvvvkiVj2eGEzXp/GBfuvmlogW6WMGVZ81f2UEcw5cHVZaIQ0W5qx5xe9d\
hbFbKDhLD5ib0bTSZwvRpw9VeFICKc9dEgv3HrDvVY3sQXsI5Vn7wX+MpgLW34O6CCKogoc=",
    ),
    (
        "RSA 2048",
        "-----BEGIN PUBLIC KEY-----\n\
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAn/oS/mR0DrXWRe0onw82\n\
nAU4K5FtCff1ZAwcNqbHoz8J75rIFGG6ny8OenxToZWB00JTu3LDxnoNtoZrflzz\n\
DOp2pyoBJ9lgXyhu9/cL+IOy/Wg0mqYy+11VoFWSBENuTHa0AnrqoCLMoVZzqDJT\n\
4gcp6mhBsyfBZK8890sVWHuC1MBvHMIrjSY+0xb80wdvRQ2SCJ3O58pZn7YGxQhn\n\
h/uytIAk9LKUPXOWbk/+wL8a2N8ZXjP2GEinH0eqBA/He8Kyds5aQz+NjIDeC7cS\n\
7OD+halEpitm7D6wj1YmA5EpeiQFi7XYmC3LTIzgkiLLw6mdw5lCTnPTY3WtR3jQ\n\
GwIDAQAB\n\
-----END PUBLIC KEY-----\n",
        "A3sXXLGda+c449uo6xw2+d8GyCcVjHz4bEC7GsY9/Pg2s1XJjekIgY+M2a7gV09Y+KF2ObzDahtoNwyxxoYbuD7zMMZ/+nQ685Xe\
8JD790cxGimjhoOboyj0q32IPYq64WV2zhU0DWO1ywEOmdoB2+bXJ0v9rwW0DFM8fzYV+KM0VpA5rgd/pCasCKIGPWURGPu+Ue1d\
jy+PrnwsRmHFiaLnBpLm1XCZ4GRFkf6IwXaGTnit2Qbs4rliywBJImXYKGBAZ5CFwQZLcs0w+Ad6ryVTiiVRwYPL0We90ZpsaQD/\
RcZWtc0+3rqeRKe1t5nbwDTFatGIT58mDkF9tL7seg==",
    ),
    (
        "RSA 3072",
        "-----BEGIN PUBLIC KEY-----\n\
MIIBojANBgkqhkiG9w0BAQEFAAOCAY8AMIIBigKCAYEAxaMXiihVt7Gy3eWh+1Kf\n\
jeVUo2YwIBQi3iI72c5wZ0XpDC+nfhqOtCztQ6e7rFNWvmR50bejDMhNJAiA75lw\n\
/hVwNNyKV1mwtJG71Bhr/zaVj8eyCsXmR3Lud0t9fr48fekOw6pEa/9qS6RJsRf7\n\
V2hRBRu3uwPmevesciIuLmyURVv/7qNMKNPdEoMTiNETdstkOfu3ETU67i8TwPKf\n\
bBFZjlu1wbDRvzT56EYsQ8PetGafRnOkQVGpyxEemDMef9F2Vt1FvBcaTo1SRvIw\n\
7f5sIA6Bu3LxLWk4LUEAUJpVYE69MuEFn6oUmD0gRQL99/vGowb38xofkpNKiBj9\n\
//MdEu0Kkr4KBseSrhO8kbsHK4qBTMic0S3aORG50i0w4LlNGddnBjuY7Cb/4hE7\n\
X2Ue1uIuO319rKamVlHv/Jy58m8QDu7n6IWg3u57zS3zmVowg6geWMffxQFmzX6s\n\
BUUQVfJfclEpma0J3CEVw+uvVOkWsj4kDPIrKWxbZXurAgMBAAE=\n\
-----END PUBLIC KEY-----\n",
        "jJF9e2YEH2teHHxSrZY9qr2zPoGfC+Js54TaU65I76/r6nahclcAnsd6t61Km7Xg8ekHyPX2X/o7qLMQ1oUvee6nxV8g1ovxlqEY\
7yP456brfbq5Q7o8RmCdE3Tja0Fjf1OG0oFLesmK3Z7iR6blDESOHFIgWHuXA88ZR6MuTsMoPIg4E9SJ+vjDce3GhpaF++qt/Nuw\
dnDqiSouFvzQjphKNPPRXOmYeDf0lUplqVP21t5j1m0+I80bf1IR5Au1EWfdGLQED97DxxIaKV5Krq6hwikc3j9TRMZlHDvZXfzn\
s9rWMCjhDeCzBaCsRjnqrdJjmD3d0yAcE5CgLKVyUNf6ScxhyJw9B4zCBkSOIjvEs6UXEVFnuxtz99RSQNkRyOT8ECWPuhHOlrxb\
qDM417R9QZtlmBJDLqo+GT9BO0ueTvwMZ9yUp7w2Worw+gnYiU9hK36GFPxHkIbE4fCGQ6dCeuCnhDa3zQ1KX64NGHXBVUq2y5Og\
L3+5z7w2lxSL",
    ),
    (
        "P-224",
        "-----BEGIN PUBLIC KEY-----\n\
ME4wEAYHKoZIzj0CAQYFK4EEACEDOgAEhjL6Gc2sTN+eEQvGri/hlboq0A963fxK\n\
P3q48XpGLofbmxeuhsUkaPHQsX8W35iONcSwOmPdNOA=\n\
-----END PUBLIC KEY-----\n",
        "MDwCHEMtuGJHWoxGjWlftmU9DtF2p2fGW8RGjYiaigoCHDHJfd5IFcdwuInFOgUWrjQ/vdXIXwpoZv+9kns=",
    ),
    (
        "P-256",
        "-----BEGIN PUBLIC KEY-----\n\
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEU5ixRl63dWSJcZHcTs7d/1we1FZR\n\
Puv6YGtvcO5lnvzCxR9Wg5brsnIq4W1NJnEVJFbJRQLZZW5xWArPjQx0ow==\n\
-----END PUBLIC KEY-----\n",
        "MEUCIQCA+4bJq+UU76q0EmTfctotxIADWM2ncB3YtRqDLalEWgIgKBJeNTrlPZTYzqvl5tYxEHrfHGrVhEVfVnNz0NnJ6Aw=",
    ),
    (
        "P-384",
        "-----BEGIN PUBLIC KEY-----\n\
MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEvaFgIjqRzurQquV7V5buBNNv7M7Ivwus\n\
68yfOGoU47eTGIf/EjgUazhw2HIUtb+a96GAxpBpdUa9ULLQjVxw0RW1ofeeOW6s\n\
yvhVVjkho2wproAqXgvCm2TNj03WfZhQ\n\
-----END PUBLIC KEY-----\n",
        "MGQCMHbGwC3H3fo8agAYw0iFHpdeuRUweRuhSsK+JFsGypf1Fn7d+yJGD9TIGn7iSTlBRgIwXpVtvfB4gJY6d13up9ad8463Tgkx\
n6MHPA3cDuzzNjkkAAd1TDtlqWYp3xH/PKhP",
    ),
    (
        "P-521",
        "-----BEGIN PUBLIC KEY-----\n\
MIGbMBAGByqGSM49AgEGBSuBBAAjA4GGAAQB81dhHi7vu4NssYhH5Oh49j872vMk\n\
6Cmro4uPzaJyVRXym6XtYBmYIXEa1mJGAEx+OIx8c7+/gP8FJ3gc/PasmcgANWun\n\
8pOUdeU4yaOe7LXtv0M/SrASee0uIm9TSSx6vYTL4+CXmK2asi1PGxxsuvMalhPa\n\
+9yCbfoJ8Pi51GxzmA8=\n\
-----END PUBLIC KEY-----\n",
        "MIGIAkIBmV64MGL4IFk/5fJIasHxHwjvhNNVobvo+U6JqSCw4E8N7QXbU0FvgormN5ot47lRCUSZSa5uPkKoZX4SnsIY+VwCQgEO\
XMptkuKqwNxojGhbNRAAcjPk/Y3OWRTgDajJk2JSO/MBEqvIpMtaQJaM5mXEOYqWwpiwYH5KX/ZRjC0Ansdlvw==",
    ),
    (
        "Ed25519",
        "-----BEGIN PUBLIC KEY-----\n\
MCowBQYDK2VwAyEACPvGbtEv9fqyTz7BXO+hI9pBMGT7rshXfCn6jE6TcBI=\n\
-----END PUBLIC KEY-----\n",
        "MkORjYvAC+e8VZ9HCkC54d4wTyTzI8CsHC283Zrozs8ojfx7bOnRzp9KSVXeG7C2KPVrGX4byEUDjcMvvk2fBw==",
    ),
];

/// Keys of kinds and sizes that devices may not use.
pub(crate) const REFUSED: &[(&str, &str)] = &[
    (
        "X25519",
        "-----BEGIN PUBLIC KEY-----\n\
MCowBQYDK2VuAyEABQhajcVTTsvodyQQ7TsCD3KeOPbmo05VrLhGbN6+6kk=\n\
-----END PUBLIC KEY-----\n",
    ),
    (
        "Ed448",
        "-----BEGIN PUBLIC KEY-----\n\
MEMwBQYDK2VxAzoAfd1rOEprxjBXzlHQF24MLu4TInsKqIZpoPGL3rxMGJ19CK0v\n\
AM0EclZVn5nYwdyDDTXfnfBKbn+A\n\
-----END PUBLIC KEY-----\n",
    ),
    (
        "RSA-PSS",
        "-----BEGIN PUBLIC KEY-----\n\
MIIBIDALBgkqhkiG9w0BAQoDggEPADCCAQoCggEBAPDttxznZco+P4ZJJav9NZAD\n\
dIP4dgn+Z0uktazRqdqlYwIgwUn2J3mhBQMEratKgdeBnEFKMj36VbOVbPD3XNTw\n\
b0iadeKtNg9RtvdgS42uVpPJftK4cauWdn/HxN8m94U1DBmnN91pnvpJVqObX3Ct\n\
6eNcJkTEP9Y4LjorsxReyvlLVRIJaWPE6mGI+xpnfVUFgp2dCgNxbCF8iyFOXvVb\n\
roHni0fhcBGO59xswEWh46O/Wx9fT8JL6/kceVKjqdlpBFSxe2+WETgepCs067ZI\n\
8UwNgFHYfnA0AV3lioesVHrUO4bdZjaEfOfIWVmZw7SRaRMZDjPOL3iCtHUGbVEC\n\
AwEAAQ==\n\
-----END PUBLIC KEY-----\n",
    ),
    (
        "DSA",
        "-----BEGIN PUBLIC KEY-----\n\
MIIBvzCCATMGByqGSM44BAEwggEmAoGBANyTCc9xdMFmQM+WmiNfw7qxQKZ0XCAu\n\
pk7wBHhgFnjI8EEegE5a0/tKFlg4z2y18195RMzhxuBBg6pddpjVp7Ch2tH+jhCO\n\
RPydLK3y85TGBZAeivMIipwjqtIhYdu0KXngfVFY0NyQeK9b8qsEkUrQ4XoDzaZ0\n\
IkWBCHt0qzzrAh0Ax4j8UmTjvkcQn9bw8ZtIMJn968t5KM1lrWceCQKBgAZnDXhP\n\
VlgeKtDx8YcaIG6SR3gmV3P3qG/oN4E2te78zJwAWqkSL9TMqWZl0WBXoM7U58wt\n\
krssjwO67VY/ti4ii5zVTmadaUPqsSpyEyBOIxQWA6SlJY0pcWWyG3RJ7L2govg8\n\
1691jAXC7amUlOw1pgVyAZJvhQwlg5GB/s3rA4GFAAKBgQDI8ItY5o5L7069qu6E\n\
oa5c4tonUeP7+e5qzK3has4qwjRK1ISIZHv5jg3SmNCcG7Ide4LmTft8WrxJe0PQ\n\
xjXcVbEXqV4s0xdJONeR117SqiL5+4fYeikl6x96bGZXL1BhbAqErLSjr9sWItUB\n\
2CIq7J97BnAwhkLyJTVAEjJIeA==\n\
-----END PUBLIC KEY-----\n",
    ),
    (
        "secp256k1",
        "-----BEGIN PUBLIC KEY-----\n\
MFYwEAYHKoZIzj0CAQYFK4EEAAoDQgAEnDlT8PRMckaeIUguWDOrKr9OQXlS2EaE\n\
hynmYePkm/0/DXfog69pTRL7wD1o9P2Mt8T8QgMvWQBIXEO/RLeZmA==\n\
-----END PUBLIC KEY-----\n",
    ),
    ("RSA 512", RSA_512),
];

/// Keys in a form that is not read.
pub(crate) const UNDECODABLE: &[(&str, &str)] = &[
    (
        "PKCS#1",
        "-----BEGIN RSA PUBLIC KEY-----\n\
MIIBCgKCAQEAn/oS/mR0DrXWRe0onw82nAU4K5FtCff1ZAwcNqbHoz8J75rIFGG6\n\
ny8OenxToZWB00JTu3LDxnoNtoZrflzzDOp2pyoBJ9lgXyhu9/cL+IOy/Wg0mqYy\n\
+11VoFWSBENuTHa0AnrqoCLMoVZzqDJT4gcp6mhBsyfBZK8890sVWHuC1MBvHMIr\n\
jSY+0xb80wdvRQ2SCJ3O58pZn7YGxQhnh/uytIAk9LKUPXOWbk/+wL8a2N8ZXjP2\n\
GEinH0eqBA/He8Kyds5aQz+NjIDeC7cS7OD+halEpitm7D6wj1YmA5EpeiQFi7XY\n\
mC3LTIzgkiLLw6mdw5lCTnPTY3WtR3jQGwIDAQAB\n\
-----END RSA PUBLIC KEY-----\n",
    ),
    (
        "compressed P-256",
        "-----BEGIN PUBLIC KEY-----\n\
MDkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDIgADU5ixRl63dWSJcZHcTs7d/1we1FZR\n\
Puv6YGtvcO5lnvw=\n\
-----END PUBLIC KEY-----\n",
    ),
];

/// An RSA key that anybody could break.
pub(crate) const RSA_512: &str = "-----BEGIN PUBLIC KEY-----\n\
MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBALbBE740qLOlFnnyEJKh3BY4HHe9ynkA\n\
0Zredjxf4rst8uMdKwwk21zdzJq3vtbSukDUwoNAF9LpNFfRBMSehjsCAwEAAQ==\n\
-----END PUBLIC KEY-----\n";

/// The key of this kind in [`SIGNED`].
pub(crate) fn pem_of(kind: &str) -> &'static str {
    SIGNED.iter().find(|(found, ..)| *found == kind).map(|(_, pem, _)| *pem).expect("a kind in the table")
}
