//! Seccomp's BPF programs, checked and run as the kernel does (seccomp(2); `seccomp_check_filter` and `bpf_check_classic`).
use serde::Deserialize;

const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
const MAX_INSTRUCTIONS: usize = 4096;

#[derive(Debug, Clone, Copy)]
struct Instruction {
    code: u16,
    when_true: u8,
    when_false: u8,
    operand: u32,
}

/// A program that the kernel would take.
#[derive(Debug)]
pub struct Program(Vec<Instruction>);

impl Program {
    /// Reads and checks a program; `None` for one that the kernel refuses, or with instructions that libseccomp does not use.
    #[must_use]
    pub fn verify(bytes: &[u8]) -> Option<Self> {
        let (chunks, rest) = bytes.as_chunks::<8>();
        let program: Vec<Instruction> = chunks
            .iter()
            .map(|[a, b, when_true, when_false, operand @ ..]| Instruction {
                code: u16::from_ne_bytes([*a, *b]),
                when_true: *when_true,
                when_false: *when_false,
                operand: u32::from_ne_bytes(*operand),
            })
            .collect();
        let fits = |from: usize, jump: u32| from + 1 + (jump as usize) < program.len();
        let good = program.iter().enumerate().all(|(at, instruction)| match instruction.code {
            0x20 => instruction.operand.is_multiple_of(4) && instruction.operand < 64,
            0x05 => fits(at, instruction.operand),
            0x15 | 0x25 | 0x35 | 0x45 => {
                fits(at, instruction.when_true.into()) && fits(at, instruction.when_false.into())
            }
            0x06 | 0x54 => true,
            _ => false,
        });
        let ends = program.last().is_some_and(|last| last.code == 0x06);
        (rest.is_empty() && good && ends && program.len() <= MAX_INSTRUCTIONS).then_some(Self(program))
    }

    /// What the program says to a call of this machine's own architecture.
    #[must_use]
    pub fn run(&self, call: u32, arguments: [u64; 6]) -> u32 {
        let mut data = [0; 16];
        (data[0], data[1]) = (call, AUDIT_ARCH_X86_64);
        for (index, value) in arguments.into_iter().enumerate() {
            (data[4 + 2 * index], data[5 + 2 * index]) = (value as u32, (value >> 32) as u32);
        }
        let (mut at, mut accumulator) = (0, 0_u32);
        loop {
            let Instruction { code, when_true, when_false, operand } = self.0[at];
            let branch = |taken| usize::from(if taken { when_true } else { when_false });
            at += 1;
            match code {
                0x20 => accumulator = data[operand as usize / 4],
                0x54 => accumulator &= operand,
                0x05 => at += operand as usize,
                0x15 => at += branch(accumulator == operand),
                0x25 => at += branch(accumulator > operand),
                0x35 => at += branch(accumulator >= operand),
                0x45 => at += branch(accumulator & operand != 0),
                _ => return operand,
            }
        }
    }
}

/// What a profile says about calls that no rule names.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Otherwise {
    default_action: String,
    default_errno_ret: Option<u32>,
}

impl Otherwise {
    /// The value by which a program says it.
    ///
    /// # Panics
    /// When no program can.
    #[must_use]
    pub fn value(&self) -> u32 {
        let data = self.default_errno_ret.unwrap_or(1);
        let with = |action: u32, most: u32| {
            assert!(data <= most, "no program can say the error number {data}");
            action | data
        };
        match self.default_action.as_str() {
            "SCMP_ACT_ALLOW" => 0x7fff_0000,
            "SCMP_ACT_LOG" => 0x7ffc_0000,
            "SCMP_ACT_TRACE" => with(0x7ff0_0000, 0xffff),
            "SCMP_ACT_ERRNO" => with(0x0005_0000, 4095),
            "SCMP_ACT_TRAP" => 0x0003_0000,
            "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => 0,
            "SCMP_ACT_KILL_PROCESS" => 0x8000_0000,
            other => panic!("unknown action {other:?}"),
        }
    }
}
